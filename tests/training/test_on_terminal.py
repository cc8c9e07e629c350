"""A real training run on a pseudo-terminal: what a person sees."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runs import ROWS
from support.screens import screen_lines

ROWS_AND_COLUMNS = (40, 90)
LIMIT_S = 240.0


class RunOnTerminal:
    """A command whose three streams are one terminal."""

    def __init__(self, words: list[object], directory: Path) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *ROWS_AND_COLUMNS, 0, 0))
        chosen = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")} | chosen
        self.process = subprocess.Popen(
            [sys.executable, "-m", "neuralchat.cli", *map(str, words)],
            cwd=directory, env=environ, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.written = b""

    @property
    def lines(self) -> list[str]:
        return screen_lines(self.written.decode("utf-8", "replace"))

    def read_until(self, wanted: bytes | None) -> None:
        """Until the bytes have been written, or with None until the command has ended."""
        end = time.monotonic() + LIMIT_S
        while wanted is None or wanted not in self.written:
            assert time.monotonic() < end, self.written[-2000:]
            try:
                block = os.read(self.master, 4096)
            except OSError:
                # Linux says so of a terminal that nobody has open any more.
                block = b""
            if not block:
                assert wanted is None, self.lines
                return
            self.written += block


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
        run.process.kill()
        run.process.wait()
        os.close(run.master)


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
    os.write(run.master, b"\x03")
    run.read_until(None)
    assert run.process.wait() == 130
    lines = run.lines
    asked = next(number for number, line in enumerate(lines) if line.startswith("SIGINT: finishing this micro-batch"))
    assert "step " in lines[asked + 1] or "step " in lines[asked + 2]
    assert any(line.startswith("error: stopped by SIGINT after step ") for line in lines[asked:])
    assert lines[-1] == ""
