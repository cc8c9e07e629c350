"""One LoRA epoch with what one would otherwise take, on given prompts and completions; prints one JSON line.

  .venv-peers/bin/python benchmarks/peers.py MODEL_DIR pairs.json --way trl-packed

trl-packed    TRL's SFTTrainer, its packing into rows of --row_tokens
trl-padded    TRL's SFTTrainer, padded batches of --batch
hf-padded     a plain loop over transformers and PEFT, padded batches of --batch, shuffled
concatenated  the same loop over blocks of --block_tokens, four per batch, cut through the samples: what the original
              NeuralChat calls --dataset_concatenation

pairs.json holds [{"prompt": ..., "completion": ...}, ...]; benchmarks/throughput.py writes it from any record file,
with the template that it trains with itself, and calls this file. A token counts once (prompt, completion, end),
padding never. Nothing of NeuralChat is imported: `make peers` runs this in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORED = -100
BLOCKS_PER_BATCH = 4
LEARNING_RATE = 1e-4

Sample = tuple[list[int], list[int]]
"""Token ids, and labels: the ids of the completion and its end, IGNORED before."""


def lora() -> LoraConfig:
    return LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def tokenized(pairs: list[dict[str, str]], tokenizer: Any) -> list[Sample]:
    samples = []
    for pair in pairs:
        prompt = tokenizer(pair["prompt"])["input_ids"]
        completion = [*tokenizer(pair["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        samples.append((prompt + completion, [IGNORED] * len(prompt) + completion))
    return samples


def padded_batches(samples: list[Sample], size: int, padding_id: int) -> list[dict[str, torch.Tensor]]:
    """Batches of `size` samples in random order, padded to the longest of each batch."""
    order = torch.randperm(len(samples)).tolist()
    batches = []
    for first in range(0, len(order), size):
        part = [samples[index] for index in order[first : first + size]]
        width = max(len(ids) for ids, _ in part)
        missing = [width - len(ids) for ids, _ in part]
        batches.append({
            "input_ids": torch.tensor([ids + [padding_id] * n for (ids, _), n in zip(part, missing, strict=True)]),
            "labels": torch.tensor([labels + [IGNORED] * n for (_, labels), n in zip(part, missing, strict=True)]),
            "attention_mask": torch.tensor([[1] * (width - n) + [0] * n for n in missing]),
        })  # fmt: skip
    return batches


def concatenated_batches(samples: list[Sample], block: int) -> list[dict[str, torch.Tensor]]:
    """All samples end to end, cut into blocks wherever they end; what does not fill a block is dropped."""
    ids = torch.tensor([token for sample, _ in samples for token in sample])
    labels = torch.tensor([label for _, sample in samples for label in sample])
    whole = len(ids) // block * block
    if not whole:
        raise SystemExit(f"{len(ids)} tokens do not fill a block of {block}: more rows, or a lower --block_tokens")
    batches = [tensor[:whole].view(-1, block).split(BLOCKS_PER_BATCH) for tensor in (ids, labels)]
    return [{"input_ids": some, "labels": theirs} for some, theirs in zip(*batches, strict=True)]


def train_plainly(model: Any, batches: list[dict[str, torch.Tensor]]) -> tuple[float, int]:
    """Seconds, and real tokens."""
    model = get_peft_model(model, lora())
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=LEARNING_RATE)
    start = time.perf_counter()
    for batch in batches:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return seconds, sum(int(batch.get("attention_mask", torch.ones_like(batch["labels"])).sum()) for batch in batches)


def train_with_trl(model: Any, tokenizer: Any, pairs: list[dict[str, str]], options: argparse.Namespace) -> float:
    """Seconds."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    packed = options.way == "trl-packed"
    with tempfile.TemporaryDirectory() as work:
        config = SFTConfig(
            output_dir=work,
            use_cpu=True,
            bf16=options.bf16,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            packing=packed,
            max_length=options.row_tokens,
            per_device_train_batch_size=1 if packed else options.batch,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        data = Dataset.from_list(pairs)
        trainer = SFTTrainer(model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora())
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--way", required=True, choices=["trl-packed", "trl-padded", "hf-padded", "concatenated"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--row_tokens", type=int, default=1024)
    parser.add_argument("--block_tokens", type=int, default=512)
    parser.add_argument("--bf16", action="store_true", help="weights and arithmetic in bf16")
    options = parser.parse_args()
    torch.manual_seed(0)
    pairs = json.loads(options.pairs.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype)
    samples = tokenized(pairs, tokenizer)
    if options.way.startswith("trl"):
        seconds = train_with_trl(model, tokenizer, pairs, options)
        tokens = sum(len(ids) for ids, _ in samples)
    elif options.way == "concatenated":
        seconds, tokens = train_plainly(model, concatenated_batches(samples, options.block_tokens))
    else:
        padding_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        seconds, tokens = train_plainly(model, padded_batches(samples, options.batch, padding_id))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds, "peak_rss_mb": peak_mb}
    print(json.dumps({"way": options.way, **{name: round(value, 1) for name, value in found.items()}}))


if __name__ == "__main__":
    main()
