"""Forecast against fact: short runs through the real command, of many kinds, each told before it begins.

python benchmarks/forecasts.py [--only NAME ...] [--rows 48] [--edge] [--output FILE]

A configuration is a row of CONFIGURATIONS. Models are the demo model and others built from configurations, of random
weights, so that nothing is downloaded; records are those of examples/demo. Corrections by earlier runs are left out
(each run has a cache of its own), unless --learned keeps one cache for all. Memory is the process's peak from its first
word to its last; time is that of training. Only rows of one table are comparable: the machine may have other work.

--edge runs each configuration once as it is, and then in a memory group (cgroup, needs root) of what was forecast, and
of less: it must be done, or be refused before the first step (status 2), and never run out of memory or be killed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parents[1] / "examples" / "demo" / "train.json"
MEMORY_BAR, TIME_BAR = 0.10, 0.15


@dataclass(frozen=True)
class Configuration:
    """`model`: "demo" or a row of SHAPES. `flags` are those of finetune."""

    name: str
    model: str
    flags: tuple[str, ...] = ()
    processes: int = 1


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny llama": ("LlamaConfig", {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    }),
    "qwen2 100M": ("Qwen2Config", {
        "hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 12, "num_attention_heads": 10,
        "num_key_value_heads": 2,
    }),
    "mpt 80M": ("MptConfig", {"d_model": 512, "n_heads": 8, "n_layers": 12, "max_seq_len": 1024}),
    "gpt2 80M": ("GPT2Config", {"n_embd": 512, "n_head": 8, "n_layer": 12}),
    "t5 70M": ("T5Config", {
        "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0, "tie_word_embeddings": False,
    }),
}  # fmt: skip

PLAIN = ("--keep_general", "False")
CONFIGURATIONS = (
    Configuration("demo, lora, fp32, defaults", "demo"),
    Configuration("demo, lora, bf16, defaults", "demo", ("--bf16", "True")),
    Configuration("demo, lora, fp32, plain", "demo", PLAIN),
    Configuration("demo, lora q v r8", "demo", (*PLAIN, "--lora_all_linear", "False", "--lora_rank", "8")),
    Configuration("demo, lora r64, batch 16", "demo",
                  (*PLAIN, "--lora_rank", "64", "--per_device_train_batch_size", "16")),
    Configuration("demo, rows of 512, bf16", "demo", (*PLAIN, "--bf16", "True", "--dataset_concatenation",
                                                      "--per_device_train_batch_size", "2")),
    Configuration("demo, padded", "demo", (*PLAIN, "--no_packing", "--per_device_train_batch_size", "4")),
    Configuration("demo, 256 tokens at once", "demo", (*PLAIN, "--micro_batch_tokens", "256",
                                                       "--per_device_train_batch_size", "16")),
    Configuration("demo, checkpointing", "demo", (*PLAIN, "--gradient_checkpointing", "True",
                                                  "--per_device_train_batch_size", "16")),
    Configuration("demo, full", "demo", (*PLAIN, "--peft", "none")),
    Configuration("demo, prefix", "demo", (*PLAIN, "--peft", "prefix")),
    Configuration("demo, ia3", "demo", (*PLAIN, "--peft", "ia3")),
    Configuration("demo, two ranks", "demo", PLAIN, processes=2),
    Configuration("tiny llama, lora", "tiny llama", PLAIN),
    Configuration("tiny llama, full, batch 16", "tiny llama", (*PLAIN, "--peft", "none",
                                                              "--per_device_train_batch_size", "16")),
    Configuration("qwen2, lora, fp32", "qwen2 100M", PLAIN),
    Configuration("qwen2, lora, bf16", "qwen2 100M", (*PLAIN, "--bf16", "True")),
    Configuration("mpt, lora, fp32", "mpt 80M", PLAIN),
    Configuration("gpt2, lora, fp32", "gpt2 80M", PLAIN),
    Configuration("t5, lora, fp32", "t5 70M", PLAIN),
)  # fmt: skip


def make_shape(name: str, directory: Path, tokenizer_of: Path) -> Path:
    """A checkpoint of a row of SHAPES with the demo model's tokenizer."""
    import torch
    import transformers

    kind, sizes = SHAPES[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_of)
    torch.manual_seed(0)
    config = getattr(transformers, kind)(
        **sizes, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )  # fmt: skip
    kinds = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    kinds.from_config(config, dtype=torch.float32).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def command_of(
    configuration: Configuration, model: Path, work: Path, options: argparse.Namespace
) -> tuple[list[str], dict[str, str]]:
    """(words of the command, its environment); the run goes to `work`/run."""
    output, home = work / "run", work.parent / "home" if options.learned else work / "home"
    command = [
        sys.executable, "-m", "neuralchat.cli", "finetune", "--model_name_or_path", str(model), "--train_file",
        str(RECORDS), "--max_train_samples", str(options.rows), "--output_dir", str(output), "--num_train_epochs", "1",
        "--save_strategy", "no", "--report_samples", "0", "--template", "alpaca", "--num_processes",
        str(configuration.processes), *configuration.flags,
    ]  # fmt: skip
    return command, {**os.environ, "NEURALCHAT_HOME": str(home), "HF_HUB_OFFLINE": "1"}


def run(configuration: Configuration, model: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    command, environment = command_of(configuration, model, work, options)
    output = work / "run"
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"name": configuration.name, "failed": done.stderr[-1500:]}
    results = json.loads((output / "neuralchat.json").read_text())["results"]
    told = results["forecast"]
    return {
        "name": configuration.name,
        "memory_forecast_mb": told["peak_memory_mb"],
        "memory_mb": results["peak_memory_mb"],
        "memory_parts_mb": told["memory_parts_mb"],
        "seconds_forecast": round(told["training_seconds"], 2),
        "seconds": round(results["training_seconds"], 2),
        "steps": results["steps"],
        "seconds_in_all": round(results["seconds"], 1),
        "said": [line for line in done.stderr.splitlines() if re.match(r"memory forecast|forecast:", line)],
    }


# Shares of what was forecast that a memory group is given.
EDGES = (1.0, 0.95, 0.85, 0.7)
GROUPS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}


def run_within(limit_bytes: int, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command in a memory group of its own, of either version of cgroups."""
    place, limit_file = next((p, f) for p, f in GROUPS.items() if (p / "cgroup.procs").exists())
    group = place / f"forecasts-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit_file).write_text(str(limit_bytes))
        enter = f'echo $$ > {group}/cgroup.procs; exec "$@"'
        return subprocess.run(["sh", "-c", enter, "sh", *command], capture_output=True, text=True, env=environment)
    finally:
        time.sleep(0.5)
        group.rmdir()


def at_the_edge(
    configuration: Configuration, found: dict[str, Any], model: Path, work: Path, options: argparse.Namespace
) -> dict[str, str]:
    """Share of the forecast -> what came of it."""
    outcomes = {}
    for share in EDGES:
        place = work.with_name(f"{work.name}-{share}")
        command, environment = command_of(configuration, model, place, options)
        limit = int(share * found["memory_forecast_mb"] * 2**20)
        done = run_within(limit, command, environment)
        said = done.stderr.strip().splitlines() or [""]
        reason = next((line for line in said if line.startswith("error")), said[-1])
        told = next((line for line in said if "becomes" in line or "computed again" in line), "")
        outcomes[f"{share:g}"] = {0: "done" + (f" ({told[:90]})" if told else ""), 2: f"refused: {reason[:200]}"}.get(
            done.returncode, f"! ended with {done.returncode}: {said[-1][:200]}"
        )
    return outcomes


def row(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"| {found['name']} | failed: {found['failed'].strip().splitlines()[-1]} | | | | | |"
    memory = found["memory_mb"] / found["memory_forecast_mb"]
    seconds = found["seconds"] / max(found["seconds_forecast"], 1e-9)
    return (
        f"| {found['name']} | {found['memory_forecast_mb']} | {found['memory_mb']} | {memory:.2f}"
        f"{mark(memory, MEMORY_BAR)} | {found['seconds_forecast']} | {found['seconds']} | {seconds:.2f}"
        f"{mark(seconds, TIME_BAR)} |"
    )


def mark(ratio: float, bar: float) -> str:
    return "" if abs(ratio - 1) <= bar else " !"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="configurations whose names contain one of these")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--edge", action="store_true", help="also in memory groups of what was forecast, and of less")
    parser.add_argument("--learned", action="store_true", help="one cache for all, so that later runs learn")
    parser.add_argument("--output", type=Path, help="write all figures to this JSON file")
    options = parser.parse_args()
    from neuralchat.models.loading.fetch import DEFAULT_MODEL, fetched_path

    demo = fetched_path(DEFAULT_MODEL)
    if demo is None:
        sys.exit(f"get the demo model first: neuralchat fetch {DEFAULT_MODEL}")
    print("| configuration | memory, MiB: forecast | fact | ratio | seconds: forecast | fact | ratio |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    every = []
    with tempfile.TemporaryDirectory() as place:
        models = {"demo": demo}
        for number, configuration in enumerate(CONFIGURATIONS):
            if options.only and not any(text in configuration.name for text in options.only):
                continue
            if configuration.model not in models:
                directory = Path(place) / f"model-{number}"
                models[configuration.model] = make_shape(configuration.model, directory, demo)
            work = Path(place) / f"run-{number}"
            every.append(run(configuration, models[configuration.model], work, options))
            print(row(every[-1]), flush=True)
            if options.edge and "failed" not in every[-1]:
                every[-1]["edge"] = at_the_edge(configuration, every[-1], models[configuration.model], work, options)
                for share, outcome in every[-1]["edge"].items():
                    print(f"    {share} of it: {outcome}", flush=True)
    if options.output:
        content = {"date": time.strftime("%Y-%m-%d %H:%M"), "rows": options.rows, "configurations": every}
        options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
