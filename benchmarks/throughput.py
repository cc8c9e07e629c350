"""Tokens per second of this project's modes, of peers if their environment is given, and of the matrix products alone.

  python benchmarks/throughput.py MODEL_DIR records.json --rows 96 --rounds 2 \\
      --peer_python PEERS/bin/python --peer_script peers.py --peer_ways trl-packed hf-padded

Every way runs in a process of its own, all ways in turn, `rounds` times; a token counts once (prompt, answer, end),
padding never. Writes benchmarks/results/throughput-DATE.json with versions and the command.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

MODES: dict[str, list[str]] = {
    "neuralchat": [],
    "neuralchat rows": ["--dataset_concatenation", "--per_device_train_batch_size", "2"],
    "neuralchat bf16": ["--bf16", "True"],
    "neuralchat padded": ["--no_packing", "--micro_batch_tokens", "100000"],
}


def our_way(mode: str, options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as work:
        command = [
            sys.executable, "-m", "neuralchat.cli", "finetune", "--model_name_or_path", options.model, "--train_file",
            options.records, "--output_dir", f"{work}/run", "--max_train_samples", str(options.rows),
            "--num_train_epochs", "1", "--learning_rate", "1e-4", "--per_device_train_batch_size", "8",
            "--lora_dropout", "0", "--max_seq_length", "1024", "--save_strategy", "no", "--report_samples", "0",
            "--template", "alpaca", "--no_verify_packing", "--dataset_cache_directory", f"{work}/cache", *MODES[mode],
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        results = json.loads(Path(f"{work}/run/neuralchat.json").read_text())["results"]
    return {"tokens_per_s": results["tokens_per_s"], "peak_rss_mb": results["peak_memory_mb"]}


def peer_way(way: str, options: argparse.Namespace) -> dict[str, float]:
    command = [
        options.peer_python, options.peer_script, "--way", way, "--model", options.model, "--data", options.records,
        "--rows", str(options.rows),
    ]  # fmt: skip
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(printed.strip().splitlines()[-1])
    return {name: found[name] for name in ("tokens_per_s", "peak_rss_mb")}


def roofline(options: argparse.Namespace) -> dict[str, float]:
    """The matrix products of the tokens that must be computed, alone: forward and input gradient."""
    import torch
    from transformers import AutoConfig

    from neuralchat.config.arguments import DataArguments
    from neuralchat.data.packing import pack, split_by_tokens
    from neuralchat.data.prepared_data import prepare
    from neuralchat.models.layers.frozen_linear import product
    from neuralchat.models.loading.base_model import ModelSource, load_tokenizer

    config = AutoConfig.from_pretrained(options.model)
    tokenizer = load_tokenizer(ModelSource(name=options.model))
    with tempfile.TemporaryDirectory() as work:
        data = prepare(
            DataArguments(
                train_file=[options.records], max_seq_length=1024, max_train_samples=options.rows, template="alpaca",
                dataset_cache_directory=work,
            ),
            tokenizer,
        )  # fmt: skip
        examples = [data.train[i] for i in range(len(data.train))]
    batches = [pack(b) for i in range(0, len(examples), 8) for b in split_by_tokens(examples[i : i + 8], 1024)]
    head = config.hidden_size // config.num_attention_heads
    keys = config.num_key_value_heads * head
    shapes = [
        (config.hidden_size, config.num_attention_heads * head), (config.hidden_size, keys), (config.hidden_size, keys),
        (config.num_attention_heads * head, config.hidden_size), (config.hidden_size, config.intermediate_size),
        (config.hidden_size, config.intermediate_size), (config.intermediate_size, config.hidden_size),
    ]  # fmt: skip
    weights = [torch.randn(out, inside) for inside, out in shapes]
    vocabulary = torch.randn(config.vocab_size, config.hidden_size)

    seconds = 0.0
    with torch.no_grad():
        for batch in batches:
            inputs = [
                (torch.randn(len(batch.input_ids), w.shape[1]), torch.randn(len(batch.input_ids), w.shape[0]), w)
                for w in weights
            ]
            states = torch.randn(batch.supervised_tokens, config.hidden_size)
            start = time.perf_counter()
            for _ in range(config.num_hidden_layers):
                for x, grad, weight in inputs:
                    product(x, weight)
                    product(grad, weight.t())
            for part in states.split(341):
                product(product(part, vocabulary), vocabulary.t())
            seconds += time.perf_counter() - start
    computed = sum(len(b.input_ids) for b in batches)
    tokens = sum(b.tokens for b in batches)
    return {"tokens_per_s": round(tokens / seconds, 1), "computed_share": round(computed / tokens, 3), "peak_rss_mb": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("records")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--modes", nargs="*", default=list(MODES))
    parser.add_argument("--peer_python")
    parser.add_argument("--peer_script")
    parser.add_argument("--peer_ways", nargs="*", default=[])
    options = parser.parse_args()
    ways = [*options.modes, *options.peer_ways, "matrix products"]
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for way in ways:
            if way == "matrix products":
                found = roofline(options)
            else:
                found = our_way(way, options) if way in MODES else peer_way(way, options)
            measured[way].append(found)
            print(f"round {number + 1}  {way:20} {found}", flush=True)
    base = [run["tokens_per_s"] for run in measured[ways[0]]]
    print(f"\n{'way':20} tokens/s (median)   {ways[0]} / way, by round      peak MiB")
    for way, runs in measured.items():
        speeds = [run["tokens_per_s"] for run in runs]
        ratios = ", ".join(f"{ours / other:.2f}" for ours, other in zip(base, speeds, strict=True))
        peak = max(run["peak_rss_mb"] for run in runs)
        print(f"{way:20} {statistics.median(speeds):10.1f}          {ratios:28} {peak:.0f}")
    target = Path(__file__).parent / "results" / f"throughput-{time.strftime('%Y-%m-%d-%H%M')}.json"
    target.parent.mkdir(exist_ok=True)
    names = ("torch", "transformers", "peft")
    content = {
        "rows": options.rows,
        "records": Path(options.records).name,
        "model": Path(options.model).name,
        "cpu": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in names},
        "measured": measured,
    }
    target.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
