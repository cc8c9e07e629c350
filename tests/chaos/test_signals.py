"""A run stopped by a signal saves, says how to go on, and ends as if it had not been disturbed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROWS = [{"instruction": f"Say the word number {i}.", "output": f"Word {i} it is."} for i in range(24)]


def command(model: Path, records: Path, output: str, *extra: str) -> list[str]:
    return [
        sys.executable, "-m", "neuralchat.cli", "finetune", "--model_name_or_path", str(model), "--train_file",
        str(records), "--output_dir", output, "--num_train_epochs", "40", "--per_device_train_batch_size", "4",
        "--learning_rate", "0.01", "--logging_steps", "1", "--save_strategy", "no", "--report_samples", "0", *extra,
    ]  # fmt: skip


def start_and_wait(words: list[str], directory: Path, output: str, steps: int) -> subprocess.Popen[str]:
    """A running training that has logged `steps` steps."""
    process = subprocess.Popen(words, cwd=directory, stderr=subprocess.PIPE, text=True)
    metrics = directory / output / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= steps):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def losses(directory: Path, output: str) -> list[Any]:
    lines = [json.loads(line) for line in (directory / output / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["tokens"]) for line in lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed_equals_undisturbed(
    number: signal.Signals, write_records: Any, llama_checkpoint: Path, tmp_path: Path
) -> None:
    records = write_records(ROWS)
    subprocess.run(command(llama_checkpoint, records, "whole"), cwd=tmp_path, check=True, capture_output=True)
    process = start_and_wait(command(llama_checkpoint, records, "parts"), tmp_path, "parts", 9)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stopped by {number.name} after step" in said
    assert "--resume_from_checkpoint auto" in said
    assert "Traceback" not in said
    assert not (tmp_path / "parts" / "neuralchat.json").exists()
    resumed = command(llama_checkpoint, records, "parts", "--resume_from_checkpoint", "auto")
    subprocess.run(resumed, cwd=tmp_path, check=True, capture_output=True)
    expected = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    found = load_file(tmp_path / "parts" / "adapter_model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert losses(tmp_path, "parts") == losses(tmp_path, "whole")


def test_sigusr1_saves_and_goes_on(write_records: Any, llama_checkpoint: Path, tmp_path: Path) -> None:
    process = start_and_wait(command(llama_checkpoint, write_records(ROWS), "run"), tmp_path, "run", 5)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1
    assert (tmp_path / "run" / "neuralchat.json").exists()
