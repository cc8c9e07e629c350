"""runs/lock.py: one run at a time, no secret in the lock, and nothing written through what stands in its place."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neuralchat.errors import ArgumentsError, RunDirectoryError
from neuralchat.runs.lock import MAX_HOLDER_BYTES, RunLock, holder_name, one_writer

TOKEN = "s3cr3t-0f-m1ne"


def test_the_second_is_told_who_is_first(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.take()
    lock.take()
    with pytest.raises(RunDirectoryError, match=rf"another run is writing to .*: process {os.getpid()} on "):
        RunLock(tmp_path).take()
    lock.release()
    assert not lock.is_held
    RunLock(tmp_path).take()


@pytest.mark.parametrize(
    "words",
    [["--hub_token", TOKEN], [f"--hub_token={TOKEN}"], [f"hub_token={TOKEN}"], ["--use-auth-token", TOKEN]],
)
def test_no_secret_is_in_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["neuralchat", "finetune", *words, "--seed", "1"])
    lock = RunLock(tmp_path)
    lock.take()
    held = json.loads(lock.path.read_text())
    assert TOKEN not in held["command"]
    assert held["command"].endswith("--seed 1")
    with pytest.raises(RunDirectoryError) as caught:
        RunLock(tmp_path).take()
    assert TOKEN not in str(caught.value)


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("nothing"))


def hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def pipe(path: Path, _victim: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("trap", [link, dangling, hard_link, pipe])
def test_what_stands_in_the_place_of_the_lock_makes_way(tmp_path: Path, trap: Callable) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "run").mkdir()
    lock = RunLock(tmp_path / "run")
    trap(lock.path, victim)
    lock.take()
    assert victim.read_text() == "mine"
    assert not (tmp_path / "nothing").exists()
    assert lock.path.is_file()
    assert not lock.path.is_symlink()
    with pytest.raises(RunDirectoryError, match="another run is writing"):
        RunLock(tmp_path / "run").take()


def test_a_backup_of_hard_links_does_not_take_the_lock_away(tmp_path: Path) -> None:
    """`cp -al` gives the lock of a run at work a second name."""
    lock = RunLock(tmp_path)
    lock.take()
    (tmp_path / "backup").hardlink_to(lock.path)
    with pytest.raises(RunDirectoryError, match="another run is writing"):
        RunLock(tmp_path).take()


def test_a_directory_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / ".neuralchat.lock").mkdir()
    with pytest.raises(RunDirectoryError, match=r"\.neuralchat\.lock cannot be written: (Is|is) a directory"):
        RunLock(tmp_path).take()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"{}", b"null", b'{"pid": 1}', b"x" * 10**6])
def test_whatever_the_holder_wrote_is_read(tmp_path: Path, content: bytes) -> None:
    lock = RunLock(tmp_path)
    lock.take()
    lock.path.write_bytes(content)
    with pytest.raises(RunDirectoryError, match="a process that left no name") as caught:
        RunLock(tmp_path).take()
    assert len(str(caught.value)) < MAX_HOLDER_BYTES


def test_name_of_a_holder() -> None:
    said = {"pid": 7, "host": "node0", "started": "2026-01-01 00:00:00", "command": "neuralchat finetune"}
    assert holder_name(json.dumps(said)) == "process 7 on node0, started 2026-01-01 00:00:00 (neuralchat finetune)"


def test_a_file_has_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for said in ("a", "b"):
        with one_writer(path):
            with pytest.raises(ArgumentsError, match=f"another command is writing to {path}"), one_writer(path):
                pass
            # Who was refused has deleted nothing.
            assert path.exists()
            path.write_text(said)
        assert path.read_text() == said


def test_a_file_that_nothing_was_written_to_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyError), one_writer(path):
        raise KeyError
    assert not path.exists()
    with one_writer(path):
        path.unlink()
        path.with_name("other").write_text("")
        path.with_name("other").rename(path)
    # That is somebody else's.
    assert path.exists()
