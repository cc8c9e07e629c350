"""Write docs/cli.md from the parsers. With --check, exit 1 if the file is not up to date."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from neuralchat import cli
from neuralchat.config import parser as command_line
from neuralchat.config.arguments import (
    REJECTED_TRAINING_ARGUMENTS,
    DataArguments,
    DistributedArguments,
    ModelArguments,
    TuningArguments,
)
from neuralchat.config.legacy_flags import LEGACY_FLAGS

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
MOST_CHOICES = 16
GROUPS = (
    ("Model", ModelArguments),
    ("Data", DataArguments),
    ("Adapter and run", TuningArguments),
    ("Several processes", DistributedArguments),
)
# Where a training argument means something else here than the help of transformers says.
MEANINGS = {
    "output_dir": "The run directory. Required.",
    "bf16": "Keep the base weights in bf16. Arithmetic is bf16 where the machine has bf16 units, else fp32.",
    "average_tokens_across_devices": "No effect: the loss is always divided by the supervised tokens of all processes.",
    "ddp_backend": "What adds up over processes; by default gloo, on GPUs nccl. One not installed gives way to gloo.",
    "ddp_find_unused_parameters": "No effect: gradients are summed without DistributedDataParallel.",
    "ddp_bucket_cap_mb": "No effect: gradients are summed without DistributedDataParallel.",
    "ddp_broadcast_buffers": "No effect: gradients are summed without DistributedDataParallel.",
    "ddp_static_graph": "No effect: gradients are summed without DistributedDataParallel.",
    "disable_tqdm": "No effect: the progress line is NeuralChat's own.",
    "do_train": "Train. 'neuralchat finetune' implies it; finetune_clm.py needs it.",
    "do_eval": "Measure the loss on the held-out records. They are also measured whenever they are given.",
    "per_device_train_batch_size": "Examples (with --dataset_concatenation: rows) a process and accumulation step.",
    "per_device_eval_batch_size": "Examples a process lays into one evaluation batch.",
    "resume_from_checkpoint": "A checkpoint directory, or 'auto' for the newest whole one in --output_dir.",
    "learning_rate": "By default that of the method, see methods.md.",
    "train_sampling_strategy": "Order of records. group_by_length is for padded batches; batch_rebalance is refused.",
}
HEAD = """\
# Command line

<!-- Written by scripts/generate_cli_reference.py. Do not edit. -->

"""
FINETUNE = """\
`python finetune_clm.py` takes the same words; it needs `--do_train`, which `neuralchat finetune` implies.

- A flag is written `--name value` or `--name=value`; `--a-b` is the same as `--a_b`.
- The first word may be a `.yaml`, `.yml` or `.json` file with one mapping of names to values.
- `key=value` is the same as `--key value`. Directly after a `--flag` without `=` this holds only if the key is a flag.
- `key=` with nothing after it takes back whatever was set before.
- What stands later wins.
- A switch is turned on by `--name` or `--name true`, and off by `--name false`. One that is on by default also has
  `--no_name`.
- A default of `-` means that nothing is set.

"""
LEGACY = "Old flags are still taken, with a note.\n\n"
REJECTED = """\
These arguments of transformers are refused when they are set to anything but their default, false or nothing.

"""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is not up to date")
    options = parser.parse_args(words)
    text = reference()
    if options.check:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        print("docs/cli.md is not up to date: run python scripts/generate_cli_reference.py", file=sys.stderr)
        return 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    return 0


def reference() -> str:
    """The whole page; a function of the parsers alone."""
    top = cli.make_parser()
    verbs = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction)).choices
    parts = [HEAD, f"{cli.DESCRIPTION}\n\n"]
    parts += table(("command", "what it does"), ((f"`neuralchat {name}`", cli.VERBS[name]) for name in verbs))
    parts.append("`neuralchat --version` prints the version. Every command has `--help`.\n\n")
    parts += exit_statuses()
    for name, parser in verbs.items():
        parts.append(f"## neuralchat {name}\n\n")
        parts += finetune_section() if name == "finetune" else verb_section(parser)
    return "".join(parts).rstrip() + "\n"


def exit_statuses() -> list[str]:
    rows = (
        ("0", "done"),
        ("2", "something the user can correct: arguments, records, model, directory"),
        ("3", "training stopped because the loss was not a finite number"),
        ("4", "processes that cannot find, reach or understand each other"),
        ("5", "memory ran out"),
        ("130, 143", "interrupted with Ctrl-C, with SIGTERM"),
    )
    return ["## Exit status\n\n", *table(("status", "meaning"), rows)]


def verb_section(parser: argparse.ArgumentParser) -> list[str]:
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    return table(("argument", "default", "meaning"), (row_of(action) for action in actions))


def finetune_section() -> list[str]:
    parser = command_line.make_parser("neuralchat finetune")
    parser.set_defaults(**command_line.TRAINING_DEFAULTS)
    by_flag = {flag: action for action in parser._actions for flag in action.option_strings}
    parts = [FINETUNE]
    for title, kind in GROUPS:
        parts.append(f"### {title}\n\n")
        parts += table(("flag", "default", "meaning"), (row_of(by_flag[f"--{name}"]) for name in names_of(kind)))
    training = [name for name in names_of(TrainingArguments) if name not in REJECTED_TRAINING_ARGUMENTS]
    parts.append("### Training (transformers)\n\n")
    parts += table(("flag", "default", "meaning"), (row_of(by_flag[f"--{name}"]) for name in training))
    parts += ["### Old flags\n\n", LEGACY, *table(("flag", "today", "note"), legacy_rows())]
    refused = ((f"`--{name}`", reason) for name, reason in sorted(REJECTED_TRAINING_ARGUMENTS.items()))
    return [*parts, "### Refused training arguments\n\n", REJECTED, *table(("flag", "reason"), refused)]


def names_of(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init]


def legacy_rows() -> Iterable[tuple[str, str, str]]:
    for name, legacy in LEGACY_FLAGS.items():
        today = f"`--{legacy.today}`" if legacy.today else "not needed any more"
        if legacy.when_true is not None:
            today = f"`--{legacy.today} {legacy.when_true}`"
        yield f"`--{name}`", today, legacy.note


def row_of(action: argparse.Action) -> tuple[str, str, str]:
    """(flag, default, meaning)"""
    flags = [flag for flag in action.option_strings if not flag.startswith("--") or "-" not in flag[2:]]
    shown = ", ".join(f"`{flag}`" for flag in flags) or f"`{action.metavar or action.dest}`"
    meaning = MEANINGS.get(action.dest) or (action.help or "").replace("%%", "%")
    choices = [str(choice) for choice in action.choices or ()]
    if 0 < len(choices) <= MOST_CHOICES:
        meaning = f"{meaning.rstrip('. ')}. One of: {', '.join(choices)}."
    return shown, default_of(action), meaning


def default_of(action: argparse.Action) -> str:
    required = action.required and action.nargs != "?"
    if required or action.dest == "output_dir":
        return "required"
    value: Any = getattr(action.default, "value", action.default)
    if value is None or value == [] or value == "":
        return "-"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*(f"| {' | '.join(map(cell, line))} |\n" for line in lines), "\n"]


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
