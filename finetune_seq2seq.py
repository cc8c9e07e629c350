"""Fine-tune an encoder-decoder model (FLAN-T5); the flags are those of the original NeuralChat."""

import sys

from neuralchat.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script("finetune_seq2seq.py"))
