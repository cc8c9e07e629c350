"""A run stopped by a signal saves, says how to go on, and ends as if it had not been disturbed."""

from __future__ import annotations

import json
import shlex
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
UNSTABLE = ("tokens_per_s", "seconds", "rss_mb", "eval_seconds")


def command(model: Path, records: Path, output: str, *extra: str) -> list[str]:
    return [
        sys.executable, "-m", "neuralchat.cli", "finetune", "--model_name_or_path", str(model), "--train_file",
        str(records), "--output_dir", output, "--num_train_epochs", "12", "--per_device_train_batch_size", "4",
        "--learning_rate", "0.01", "--logging_steps", "3", "--save_strategy", "no", "--report_samples", "0",
        "--lora_dropout", "0.1", *extra,
    ]  # fmt: skip


def start_and_wait(words: list[str], directory: Path, output: str, lines: int) -> subprocess.Popen[str]:
    """A running training whose metrics have so many lines."""
    process = subprocess.Popen(words, cwd=directory, stderr=subprocess.PIPE, text=True)
    metrics = directory / output / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= lines):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


def lines(directory: Path, output: str) -> list[Any]:
    found = [json.loads(line) for line in (directory / output / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in UNSTABLE} for line in found]


def assert_same_end(directory: Path) -> None:
    expected = load_file(directory / "whole" / "adapter_model.safetensors")
    found = load_file(directory / "parts" / "adapter_model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert lines(directory, "parts") == lines(directory, "whole")


# Evaluations at every step, so that a signal is as likely to come in one as in a step; and micro-batches of one
# example with accumulation, so that it comes in the midst of a step.
SETTINGS = {
    "evaluating": ("--eval_strategy", "steps", "--eval_steps", "1", "--per_device_eval_batch_size", "1"),
    "accumulating": (
        "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4", "--micro_batch_tokens", "1",
        "--dataloader_num_workers", "2",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("number", "status", "setting"), [(signal.SIGTERM, 143, "evaluating"), (signal.SIGINT, 130, "accumulating")]
)
def test_stopped_and_resumed_equals_undisturbed(
    number: signal.Signals, status: int, setting: str, write_records: Any, llama_checkpoint: Path, tmp_path: Path
) -> None:
    """The command to go on is taken from the message itself."""
    records = write_records(ROWS)
    held_out = ("--validation_file", str(write_records(ROWS[:6], "held_out.json"))) if setting == "evaluating" else ()
    extra = (*SETTINGS[setting], *held_out)
    subprocess.run(command(llama_checkpoint, records, "whole", *extra), cwd=tmp_path, check=True, capture_output=True)
    process = start_and_wait(command(llama_checkpoint, records, "parts", *extra), tmp_path, "parts", 9)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert f"stopped by {number.name} after step" in said
    assert "Traceback" not in said
    assert not (tmp_path / "parts" / "neuralchat.json").exists()
    go_on = shlex.split(said.strip().splitlines()[-1])
    assert go_on[:2] == ["neuralchat", "finetune"]
    assert go_on[-2:] == ["--resume_from_checkpoint", "auto"]
    resumed = [sys.executable, "-m", "neuralchat.cli", *go_on[1:]]
    subprocess.run(resumed, cwd=tmp_path, check=True, capture_output=True)
    assert_same_end(tmp_path)


def test_a_second_signal_ends_at_once(write_records: Any, llama_checkpoint: Path, tmp_path: Path) -> None:
    process = start_and_wait(command(llama_checkpoint, write_records(ROWS), "run"), tmp_path, "run", 3)
    process.send_signal(signal.SIGSTOP)
    # Both are there when the process goes on.
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert list((tmp_path / "run").glob("checkpoint-*")) == []


def test_sigusr1_saves_and_goes_on(write_records: Any, llama_checkpoint: Path, tmp_path: Path) -> None:
    process = start_and_wait(command(llama_checkpoint, write_records(ROWS), "run"), tmp_path, "run", 5)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1
    assert (tmp_path / "run" / "neuralchat.json").exists()
