"""Tokens per second of this project's modes, of peers if their environment is given, and of the matrix products alone.

  python benchmarks/throughput.py                                          the demo model on the demo's records
  python benchmarks/throughput.py MODEL RECORDS --rows 96 --rounds 3 --peer_python .venv-peers/bin/python

The peers' environment is made by `make peers`, which then runs this. Every way runs in a process of its own, all ways
in turn, `rounds` times; a token counts once (prompt, answer, end), padding never. Writes
benchmarks/results/throughput-DATE.json with versions and the command.
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
from itertools import islice
from pathlib import Path

from neuralchat.models.loading.fetch import DEFAULT_MODEL, fetched_path

PEERS = Path(__file__).with_name("peers.py")
PEER_WAYS = ["trl-packed", "trl-padded", "hf-padded", "concatenated"]
DEMO_RECORDS = Path(__file__).parents[1] / "examples" / "demo" / "train.json"
MODES: dict[str, list[str]] = {
    "neuralchat": [],
    "neuralchat rows": ["--dataset_concatenation", "--per_device_train_batch_size", "2"],
    "neuralchat bf16": ["--bf16", "True"],
    "neuralchat padded": ["--no_packing", "--micro_batch_tokens", "8192"],
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
    with tempfile.TemporaryDirectory() as work:
        pairs = Path(work) / "pairs.json"
        pairs.write_text(json.dumps(prompts_and_completions(options)), encoding="utf-8")
        command = [options.peer_python, str(PEERS), options.model, str(pairs), "--way", way]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {name: found[name] for name in ("tokens_per_s", "peak_rss_mb")}


def prompts_and_completions(options: argparse.Namespace) -> list[dict[str, str]]:
    """The text that our own runs train on, without the end token, for tools that know no template."""
    from transformers import AutoTokenizer

    from neuralchat.data.records import RecordReport, read_records
    from neuralchat.data.templates.making import make_template

    template = make_template("alpaca", AutoTokenizer.from_pretrained(options.model))
    pairs = []
    for record in islice(read_records([options.records], RecordReport()), options.rows):
        pieces = [piece for piece in template.render(record.turns) if not piece.special]
        pairs.append({
            "prompt": "".join(piece.text for piece in pieces if not piece.supervised),
            "completion": "".join(piece.text for piece in pieces if piece.supervised),
        })  # fmt: skip
    return pairs


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
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="a directory, or a name of `neuralchat fetch`")
    parser.add_argument("records", nargs="?", default=str(DEMO_RECORDS), help="any record file of one turn per record")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--modes", nargs="*", default=list(MODES))
    parser.add_argument("--peer_python", help="Python of an environment with the peers; without it they are left out")
    parser.add_argument("--peer_ways", nargs="*", default=PEER_WAYS)
    options = parser.parse_args()
    options.model = str(fetched_path(options.model) or options.model)
    ways = [*options.modes, *(options.peer_ways if options.peer_python else []), "matrix products"]
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
