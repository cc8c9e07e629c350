"""A run stopped by a signal saves, says how to go on, and ends as if it had not been disturbed."""

from __future__ import annotations

import os
import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.forks import Process, end_of, fork, run_forked
from support.runs import stable_metrics

ROWS = [{"instruction": f"Say the word number {i}.", "output": f"Word {i} it is."} for i in range(24)]


def command(model: Path, records: Path, output: str, *extra: str) -> list[str]:
    return [
        "finetune", "--model_name_or_path", str(model), "--train_file", str(records), "--output_dir", output,
        "--num_train_epochs", "6", "--per_device_train_batch_size", "4", "--learning_rate", "0.01", "--logging_steps",
        "3", "--save_strategy", "no", "--report_samples", "0", "--lora_dropout", "0.1", *extra,
    ]  # fmt: skip


@dataclass(frozen=True)
class Running:
    """A training in a process of its own."""

    child: Process
    log: Path

    def send(self, number: int) -> None:
        os.kill(self.child.pid or 0, number)

    def end(self) -> tuple[int, str]:
        """Exit status, and what was said."""
        return end_of(self.child, timeout=120), self.log.read_text()


def start_and_wait(words: list[str], directory: Path, output: str, lines: int) -> Running:
    """A running training whose metrics have so many lines."""
    running = Running(fork(words, directory, directory / "log"), directory / "log")
    metrics = directory / output / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= lines):
        assert running.child.exitcode is None, running.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return running


def assert_same_end(directory: Path) -> None:
    expected = load_file(directory / "whole" / "adapter_model.safetensors")
    found = load_file(directory / "parts" / "adapter_model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert stable_metrics(directory / "parts") == stable_metrics(directory / "whole")


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
    log = tmp_path / "other log"
    assert run_forked(command(llama_checkpoint, records, "whole", *extra), tmp_path, log) == 0, log.read_text()
    running = start_and_wait(command(llama_checkpoint, records, "parts", *extra), tmp_path, "parts", 4)
    running.send(number)
    ended, said = running.end()
    assert ended == status, said
    assert f"stopped by {number.name} after step" in said
    assert "Traceback" not in said
    assert not (tmp_path / "parts" / "neuralchat.json").exists()
    go_on = shlex.split(said.strip().splitlines()[-1])
    assert go_on[:2] == ["neuralchat", "finetune"]
    assert go_on[-2:] == ["--resume_from_checkpoint", "auto"]
    assert run_forked(go_on[1:], tmp_path, log) == 0, log.read_text()
    assert_same_end(tmp_path)


def test_a_second_signal_ends_at_once(write_records: Any, llama_checkpoint: Path, tmp_path: Path) -> None:
    running = start_and_wait(command(llama_checkpoint, write_records(ROWS), "run"), tmp_path, "run", 3)
    running.send(signal.SIGSTOP)
    # Both are there when the process goes on.
    running.send(signal.SIGINT)
    running.send(signal.SIGTERM)
    running.send(signal.SIGCONT)
    status, said = running.end()
    assert status == 130, said
    assert "interrupted" in said
    assert list((tmp_path / "run").glob("checkpoint-*")) == []


@pytest.mark.quick
def test_sigusr1_saves_and_goes_on(write_records: Any, llama_checkpoint: Path, tmp_path: Path) -> None:
    running = start_and_wait(command(llama_checkpoint, write_records(ROWS), "run"), tmp_path, "run", 5)
    running.send(signal.SIGUSR1)
    status, said = running.end()
    assert status == 0, said
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1
    assert (tmp_path / "run" / "neuralchat.json").exists()
