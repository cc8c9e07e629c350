"""Several processes give the numbers of one: every step's loss, and the adapter they end with."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import save_checkpoint
from test_methods import DISTRIBUTED_CELLS

WORDS = "the sky is blue and the grass is green "
# 13 records of unequal length: the last batch of an epoch is a ragged one.
ROWS = [{"instruction": f"Say {i}.", "output": WORDS[: 3 + 5 * i] + "."} for i in range(7)] + [
    {"instruction": "Name a fruit." * (1 + i), "output": WORDS * i + "An apple."} for i in range(6)
]
# SGD, since Adam magnifies rounding.
FLAGS = [
    "--learning_rate", "0.02", "--optim", "sgd", "--num_train_epochs", 2, "--logging_steps", 1, "--lora_dropout", 0,
    "--save_strategy", "no", "--report_samples", 0, "--use_cpu", "--eval_strategy", "epoch",
]  # fmt: skip


def train(work: Path, name: str, *flags: Any, ranks: int = 1) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Metrics and trained weights of one run."""
    launch = [sys.executable]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch += ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", str(port)]
    command = [
        *launch, "-m", "neuralchat.cli", "finetune", "--train_file", "records.json", "--validation_file",
        "records.json", "--output_dir", name, *FLAGS, *flags,
    ]  # fmt: skip
    found = subprocess.run(
        list(map(str, command)), cwd=work, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    lines = [json.loads(line) for line in (work / name / "metrics.jsonl").read_text().splitlines()]
    return lines, load_file(work / name / "adapter_model.safetensors")


def assert_same(one: tuple[list, dict], many: tuple[list, dict]) -> None:
    for key in ("loss", "grad_norm", "eval_loss", "tokens", "supervised_tokens"):
        expected, found = ([line[key] for line in lines if key in line] for lines in (one[0], many[0]))
        assert expected
        assert found == pytest.approx(expected, rel=1e-5), key
    size = torch.stack([w.norm() for w in one[1].values()]).norm()
    difference = torch.stack([(many[1][name] - w).norm() for name, w in one[1].items()]).norm()
    assert difference <= 1e-5 * size


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "records.json").write_text(json.dumps(ROWS))
    return tmp_path


@pytest.mark.parametrize(("family", "method"), sorted(DISTRIBUTED_CELLS))
def test_two_processes_equal_one(work: Path, family: str, method: str) -> None:
    flags = ["--model_name_or_path", save_checkpoint(work / "model", family), "--peft", method]
    one = train(work, "one", *flags, "--per_device_train_batch_size", 4)
    assert_same(one, train(work, "two", *flags, "--per_device_train_batch_size", 2, ranks=2))


def test_four_processes_accumulation_and_padding_equal_one(work: Path) -> None:
    flags = ["--model_name_or_path", save_checkpoint(work / "model")]
    one = train(work, "one", *flags, "--per_device_train_batch_size", 4)
    assert_same(one, train(work, "four", *flags, "--per_device_train_batch_size", 1, ranks=4))
    accumulated = ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 2]
    assert_same(one, train(work, "accumulated", *flags, *accumulated, ranks=2))
    padded = ["--per_device_train_batch_size", 2, "--no_packing"]
    assert_same(one, train(work, "padded", *flags, *padded, ranks=2))
