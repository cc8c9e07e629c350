"""`neuralchat chat --file --output` with a real model: killed again and again, it ends with the undisturbed file."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forks import run_forked

QUESTIONS = [f"Name {number} colours of the sky." for number in range(37)]
FLAGS = ("--max_new_tokens", "6", "--temperature", "1.0", "--seed", "7", "--system", "Be brief.")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"instruction": question}) + "\n" for question in QUESTIONS))
    return path


def killed_after(lines: int) -> Callable[[], None]:
    """SIGKILL within the line after so many."""

    def prepare() -> None:
        from neuralchat.inference.terminal import batch

        append, written = batch.append_line, 0

        def append_or_die(path: Path, line: str) -> None:
            nonlocal written
            if written == lines:
                with path.open("a") as stream:
                    stream.write(line[:20])
                os.kill(os.getpid(), signal.SIGKILL)
            written += 1
            append(path, line)

        batch.append_line = append_or_die

    return prepare


def test_killed_and_gone_on_with(tmp_path: Path, file: Path, llama_checkpoint: Path) -> None:
    def command(output: str) -> list[str]:
        return ["chat", str(llama_checkpoint), "--file", str(file), "--output", output, *FLAGS]

    log = tmp_path / "log"
    assert run_forked(command("whole.jsonl"), tmp_path, log) == 0, log.read_text()
    assert "37 answer(s) are in whole.jsonl" in log.read_text()
    for lines in (3, 20, 0):
        assert run_forked(command("out.jsonl"), tmp_path, log, killed_after(lines)) == -signal.SIGKILL
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 24
    assert run_forked(command("out.jsonl"), tmp_path, log) == 0, log.read_text()
    assert "23 of 37 are answered already" in log.read_text()
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["messages"][1]["content"] for row in rows] == QUESTIONS
    assert [row["row"] for row in rows] == list(range(1, 38))
    # Drawn words, not the same for all.
    assert len({row["messages"][2]["content"] for row in rows}) > 5


def test_what_does_not_go_together_is_told_at_once(run_cli: Callable, file: Path) -> None:
    """Before a model is loaded, and all of it."""
    result = run_cli("chat", "http://127.0.0.1:9", "--template", "chat", "--base_model", "x", "-p", " ")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: this cannot be done:",
        "  - the question after -p is empty",
        "  - --template, --base_model: the server at http://127.0.0.1:9 has loaded its models already; leave it out",
    ]
    result = run_cli("chat", "no/such/model", "--model", "a")
    assert "--model names a model of a server; RUN is none" in result.stderr
    result = run_cli("chat", "no/such/model", "--file", file)
    assert "--file needs --output" in result.stderr
    result = run_cli("chat", "http://127.0.0.1:9", "-p", "hello")
    assert result.returncode == 2
    assert "no server answers at http://127.0.0.1:9/v1/" in result.stderr
    assert "Traceback" not in result.stderr
