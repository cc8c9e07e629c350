"""What several processes of one machine cost and gain, paired: 1 rank x N threads against ranks x fewer threads.

python benchmarks/ranks.py MODEL RECORDS --rounds 3 [--output FILE]

All variants train the same global batches of the same records; each round runs all of them in turn. The steps after the
first are timed, from metrics.jsonl. Bytes of a step are counted where they are handed to the all-reduce.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COUNTED = r"""
import sys, json, os, torch.distributed as dist
from neuralchat import cli
true_reduce, counts = dist.all_reduce, []
def all_reduce(tensor, *words, **named):
    counts.append(tensor.numel() * tensor.element_size())
    return true_reduce(tensor, *words, **named)
dist.all_reduce = all_reduce
status = cli.main(sys.argv[2:])
if os.environ.get("RANK", "0") == "0":
    json.dump(counts, open(sys.argv[1], "w"))
sys.exit(status)
"""


def command(options: argparse.Namespace, work: Path, name: str, ranks: int, batch: int, prefix: list[str]) -> list[str]:
    train = [
        "finetune", "--model_name_or_path", options.model, "--train_file", options.records, "--max_train_samples",
        str(options.rows), "--output_dir", str(work / name), "--per_device_train_batch_size", str(batch // ranks),
        "--num_train_epochs", "1", "--learning_rate", "1e-4", "--logging_steps", "1", "--save_strategy", "no",
        "--report_samples", "0", "--no_verify_packing",
    ]  # fmt: skip
    program = [str(work / "counted.py"), str(work / f"{name}.bytes"), *train]
    if ranks == 1:
        return [*prefix, sys.executable, *program]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return [*prefix, sys.executable, *launch, *program]


def measure(
    options: argparse.Namespace, work: Path, name: str, ranks: int, prefix: list[str], **environ: str
) -> dict[str, Any]:
    found = subprocess.run(
        command(options, work, name, ranks, options.batch, prefix), env={**os.environ, **environ}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        raise SystemExit(found.stdout + found.stderr)
    lines = [json.loads(line) for line in (work / name / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    seconds = steps[-1]["seconds"] - steps[0]["seconds"]
    tokens = steps[-1]["tokens"] - steps[0]["tokens"]
    counts = json.loads((work / f"{name}.bytes").read_text())
    manifest = json.loads((work / name / "neuralchat.json").read_text())
    gradient_bytes = 4 * manifest["adapter"]["trained_parameters"]
    said = [line for line in found.stderr.splitlines() if line.startswith(("rank ", "preflight", "forecast", "memory"))]
    return {
        "tokens_per_s": round(tokens / seconds, 1),
        "losses": [line["loss"] for line in steps],
        "gradient_bytes": gradient_bytes,
        # Beside the gradient: three kinds of trouble and the loss, 4 bytes each.
        "all_reduce_bytes_a_step": min(counts, key=lambda size: abs(size - gradient_bytes), default=0),
        "peak_memory_mb": manifest["results"]["peak_memory_mb"],
        "training_seconds": manifest["results"]["training_seconds"],
        "said": said,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("records")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run_cpu", action="store_true", help="also under torch.backends.xeon.run_cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    variants: dict[str, tuple[int, list[str]]] = {"one rank": (1, []), f"{options.ranks} ranks": (options.ranks, [])}
    if options.run_cpu:
        variants["run_cpu"] = (1, [sys.executable, "-m", "torch.backends.xeon.run_cpu", "--no-python"])
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(options.rounds):
            work = Path(directory) / str(number)
            work.mkdir()
            (work / "counted.py").write_text(COUNTED)
            rounds.append({name: measure(options, work, name, *variant) for name, variant in variants.items()})
            shown = {name: found["tokens_per_s"] for name, found in rounds[-1].items()}
            print(shown, flush=True)
    base = "one rank"
    ratios = {
        name: [round(found[name]["tokens_per_s"] / found[base]["tokens_per_s"], 3) for found in rounds]
        for name in variants
        if name != base
    }
    summary = {name: {"ratios": values, "median": statistics.median(values)} for name, values in ratios.items()}
    print(json.dumps(summary))
    if options.output:
        options.output.write_text(json.dumps({"rounds": rounds, "summary": summary}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
