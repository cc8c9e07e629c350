"""Records to train on, and what a run left behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from support.forks import run_forked

ROWS: list[dict[str, Any]] = [
    {"instruction": "Name the capital of France.", "input": "", "output": "Paris."},
    {"instruction": "Add the numbers.", "input": "2 and 3", "output": "5"},
    {"instruction": "What colour is the sky?", "output": "The sky is blue."},
    {"instruction": "Name an animal.", "input": None, "output": "A cat, for example."},
    {"instruction": "At how many degrees does water boil?", "output": "At one hundred."},
    {"instruction": "Name a fruit.", "input": "It is red.", "output": "An apple."},
    {"instruction": "What do birds do?", "output": "They sing <|end|> and fly."},
    {"instruction": "Say nothing much.", "output": "Ok"},
]


class Desk:
    """A directory with `records.json`, in which commands run; what they say has no traceback."""

    def __init__(self, directory: Path, model: Path, rows: Sequence[dict[str, Any]] = ROWS) -> None:
        self.directory = directory
        self.model = model
        self.log = directory / "log"
        (directory / "records.json").write_text(json.dumps(rows))

    def run(self, *words: str, prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
        """(exit status, what was said); `prepare` runs in the process before the command."""
        self.log.unlink(missing_ok=True)
        status = run_forked(words, self.directory, self.log, prepare)
        said = self.log.read_text()
        assert "Traceback" not in said, said
        return status, said


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# What the clock and the allocator decide.
UNSTABLE = ("tokens_per_s", "seconds", "rss_mb", "eval_seconds", "memory_mb_by_part", "seconds_by_part")


def stable_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what the clock and the allocator decide."""
    return [{key: value for key, value in line.items() if key not in UNSTABLE} for line in metrics(run)]


def digest(run: Path) -> str:
    """SHA-256 of the adapter's weights."""
    return hashlib.sha256((run / "adapter_model.safetensors").read_bytes()).hexdigest()


def copied(source: Path, target: Path) -> Path:
    """A copy of a directory that may be written to, whatever the permissions of the original."""
    target.mkdir()
    for path in sorted(source.rglob("*")):
        there = target / path.relative_to(source)
        if path.is_dir():
            there.mkdir()
        else:
            there.write_bytes(path.read_bytes())
    return target


def adapter(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "adapter_model.safetensors")


def trained_weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(next(run.glob("*model.safetensors")))
