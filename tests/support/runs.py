"""Records to train on, and what a run left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

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


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def adapter(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "adapter_model.safetensors")


def trained_weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(next(run.glob("*model.safetensors")))
