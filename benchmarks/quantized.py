"""A base model in fp32, bf16, 8 and 4 bits: tokens per second, peak memory, loss of an epoch; each way in turn.

  python benchmarks/quantized.py smollm2-135m-instruct RECORDS --rows 200 --rounds 3
  python benchmarks/quantized.py smollm2-135m-instruct RECORDS --layers 4 --rows 24

With --layers the model is one of LLaMA-7B's width with so many layers, of random weights in bf16, and the tokenizer of
the model that is named: its speed is that of the whole one, its loss says nothing. --layers 32 is the whole one (13 GB
of disk). Prints a table and writes benchmarks/results/quantized-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from neuralchat.distributed.hardware import read_machine

WAYS: dict[str, list[str]] = {
    "fp32": [],
    "fp32 8": ["--bits", "8"],
    "fp32 4": ["--bits", "4"],
    "bf16": ["--bf16", "True"],
    "bf16 8": ["--bf16", "True", "--bits", "8"],
    "bf16 4": ["--bf16", "True", "--bits", "4"],
}


def measure(model: str, way: str, options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as work:
        command = [
            sys.executable, "-m", "neuralchat.cli", "finetune", "--model_name_or_path", model, "--train_file",
            options.records, "--output_dir", f"{work}/run", "--max_train_samples", str(options.rows),
            "--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--save_strategy", "no",
            "--report_samples", "0", "--general_samples", "0", "--keep_general", "False", "--logging_steps", "1",
            "--micro_batch_tokens", str(options.micro_batch_tokens), *WAYS[way],
            *(["--lora_target_modules", "q_proj,v_proj"] if options.layers else []),
        ]  # fmt: skip
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{way} failed:\n{done.stderr[-2000:]}")
        seconds = time.perf_counter() - begun
        results = json.loads(Path(f"{work}/run/neuralchat.json").read_text())["results"]
        losses = [json.loads(line).get("loss") for line in Path(f"{work}/run/metrics.jsonl").read_text().splitlines()]
    known = [loss for loss in losses if loss is not None]
    return {
        "tokens_per_s": results["tokens_per_s"], "peak_rss_mb": results["peak_memory_mb"],
        "mean_loss": statistics.mean(known), "last_losses": statistics.mean(known[-5:]),
        "seconds_beside_training": round(seconds - results["training_seconds"], 1),
    }  # fmt: skip


def wide_model(directory: Path, layers: int, tokenizer_of: str) -> str:
    """A checkpoint of LLaMA-7B's width."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from neuralchat.models.loading.base_model import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve(tokenizer_of))
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=layers, num_attention_heads=32, vocab_size=32000
    )
    config.vocab_size = max(len(tokenizer), config.vocab_size)
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("records")
    parser.add_argument("--ways", nargs="+", default=["bf16", "bf16 8", "bf16 4"], choices=WAYS)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--micro_batch_tokens", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=0)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory() as work:
        model = wide_model(Path(work), options.layers, options.model) if options.layers else options.model
        for _ in range(options.rounds):
            for way in options.ways:
                found[way].append(measure(model, way, options))
                print(way, json.dumps(found[way][-1]), flush=True)
    first = options.ways[0]
    for way, rounds in found.items():
        ratios = [one["tokens_per_s"] / base["tokens_per_s"] for one, base in zip(rounds, found[first], strict=True)]
        print(
            f"{way:8} {statistics.median(one['tokens_per_s'] for one in rounds):7.1f} tokens/s, "
            f"{statistics.median(ratios):.3f} of {first}, peak {max(one['peak_rss_mb'] for one in rounds)} MiB, "
            f"loss {rounds[0]['mean_loss']:.4f}, last five {rounds[0]['last_losses']:.4f}"
        )
    results = Path(__file__).with_name("results") / f"quantized-{time.strftime('%Y-%m-%d-%H%M')}.json"
    facts = {"command": sys.argv, "instructions": read_machine().isa, "found": found}
    results.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
