"""A real training run on a pseudo-terminal: what a person sees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runs import ROWS
from support.terminals.on_terminal import RunOnTerminal


@pytest.fixture
def start(
    llama_checkpoint: Path, write_records: Callable[..., Path], tmp_path: Path
) -> Iterator[Callable[..., RunOnTerminal]]:
    runs: list[RunOnTerminal] = []

    def start(**flags: Any) -> RunOnTerminal:
        chosen = {
            "model_name_or_path": llama_checkpoint, "train_file": write_records(ROWS), "output_dir": "run",
            "per_device_train_batch_size": 4, "save_strategy": "no", "logging_steps": 1, **flags,
        }  # fmt: skip
        words = [f"{name}={value}" for name, value in chosen.items()]
        runs.append(RunOnTerminal(["finetune", *words], tmp_path))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


def test_a_run_to_its_end(start: Callable[..., RunOnTerminal]) -> None:
    run = start(num_train_epochs=2, report_samples=1)
    run.read_until(None)
    assert run.process.wait() == 0
    lines = run.lines
    # One line of progress stays, between the plan and the results; no step has a line of its own.
    (progress,) = [number for number, line in enumerate(lines) if "step " in line and "/4" in line]
    assert "step 4/4" in lines[progress]
    assert lines[progress].startswith("━" * 12)
    assert lines[progress].endswith("GiB  0:00 left")
    assert any(line.startswith("│ forecast │ 4 steps, about ") for line in lines[:progress])
    assert "│ Q      │ Name the capital of France." in "\n".join(lines[progress:])
    assert lines[-2] == "  chat    neuralchat chat run"
    assert b"\x1b[?25l" not in run.written


def test_ctrl_c(start: Callable[..., RunOnTerminal]) -> None:
    run = start(num_train_epochs=5000, report_samples=0)
    run.read_until(b" tokens/s")
    run.type(b"\x03")
    run.read_until(None)
    assert run.process.wait() == 130
    lines = run.lines
    # Linux sends the signal before it echoes ^C, which may stand before the first words then.
    finishing = re.compile(r"(\^C)?SIGINT: finishing this micro-batch")
    asked = next((number for number, line in enumerate(lines) if finishing.match(line)), None)
    assert asked is not None, "\n".join(lines)
    assert "step " in lines[asked + 1] or "step " in lines[asked + 2]
    assert any(line.startswith("stopped by SIGINT after step ") for line in lines[asked:])
    # It did what it was asked.
    assert not any("error" in line for line in lines[asked:])
    assert lines[-1] == ""
