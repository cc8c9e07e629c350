"""Every tuning method on the demo: held-out loss and right answers, time, trained parameters, size on disk.

  python benchmarks/methods.py smollm2-135m-instruct --methods lora ptun prefix prompt llama_adapter ia3

Each method trains with its own default learning rate, otherwise as examples/demo/finetune.yaml says. Writes
benchmarks/results/methods-DATE.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from neuralchat.config.methods import METHODS

ROOT = Path(__file__).parent.parent
# The demo's own settings for LoRA; every other method takes its defaults.
OF_LORA = ["lora_rank=8", "lora_alpha=16", "lora_all_linear="]


def measure(model: str, method: str, extra: list[str], *, ask: bool) -> dict[str, float | None]:
    with tempfile.TemporaryDirectory() as work:
        run = Path(work) / "run"
        command = [
            sys.executable, "-m", "neuralchat.cli", "finetune", "examples/demo/finetune.yaml",
            f"model_name_or_path={model}", f"output_dir={run}", f"peft={method}", "learning_rate=", "report_samples=0",
            *OF_LORA, *extra,
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        manifest = json.loads((run / "neuralchat.json").read_text())
        right = answers_right(run) if ask else None
        size = sum(path.stat().st_size for path in run.glob("*.safetensors"))
        results = manifest["results"]
    return {
        "learning_rate": METHODS[method].learning_rate, "held_out_loss": results["held_out_loss_after"],
        "held_out_loss_before": results["held_out_loss_before"], "right": right,
        "training_seconds": round(results["training_seconds"], 1), "tokens_per_s": results["tokens_per_s"],
        "peak_memory_mb": results["peak_memory_mb"], "trained_parameters": results["trained_parameters"],
        "adapter_bytes": size,
    }  # fmt: skip


def answers_right(run: Path) -> float:
    command = [
        sys.executable, "-m", "neuralchat.cli", "eval", str(run), "--questions", "examples/demo/heldout.json",
        "--max_new_tokens", "48",
    ]  # fmt: skip
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    found = re.search(r"(\d+) of (\d+) answers", said)
    assert found is not None
    return round(int(found[1]) / int(found[2]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--methods", nargs="*", default=["lora", "ptun", "prefix", "prompt", "llama_adapter", "ia3"])
    parser.add_argument("--extra", nargs="*", default=[], help="further key=value settings for all")
    parser.add_argument("--loss_only", action="store_true", help="do not ask the held-out questions")
    options = parser.parse_args()
    measured = {}
    for method in options.methods:
        found = measured[method] = measure(options.model, method, options.extra, ask=not options.loss_only)
        print(method, found, flush=True)
    print("\n| method | learning rate | held-out loss | right answers | training | trained | on disk |")
    print("|---|---|---|---|---|---|---|")
    for method, row in measured.items():
        print(
            f"| {method} | {row['learning_rate']:g} | "
            f"{row['held_out_loss_before']:.2f} -> {row['held_out_loss']:.3f} | "
            f"{'' if row['right'] is None else format(row['right'], '.0%')} | {row['training_seconds']:.0f} s | "
            f"{row['trained_parameters']:,} | {row['adapter_bytes'] / 1e6:.2f} MB |"
        )
    target = Path(__file__).parent / "results" / f"methods-{time.strftime('%Y-%m-%d-%H%M')}.json"
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    content = {"model": options.model, "extra": options.extra, "versions": versions, "measured": measured}
    target.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
