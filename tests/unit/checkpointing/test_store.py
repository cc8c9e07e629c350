"""checkpointing/store.py: whole or absent, every flipped byte found, retention, and disks that are full."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from neuralchat.checkpointing import store as module
from neuralchat.checkpointing.store import (
    SUMS,
    check_room,
    damage,
    keep_newest,
    sweep,
    write_checkpoint,
    write_failure,
    write_files,
)
from neuralchat.errors import RunDirectoryError
from neuralchat.runs.directory import checkpoints


def fill(directory: Path) -> None:
    (directory / "weights").write_bytes(bytes(range(64)))
    (directory / "state.json").write_text('{"step": 3}\n')
    (directory / "deeper").mkdir()
    (directory / "deeper" / "more").write_text("x")


def test_a_checkpoint_is_checked_by_sha256sum_too(tmp_path: Path) -> None:
    made = write_checkpoint(tmp_path, 3, fill)
    assert made == tmp_path / "checkpoint-3"
    assert damage(made) is None
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-3"]
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=made, check=True, capture_output=True)


def test_every_byte_of_every_file_counts(tmp_path: Path) -> None:
    """Each byte in turn replaced by another value; that of SHA256SUMS itself too."""
    made = write_checkpoint(tmp_path, 3, fill)
    draw = random.Random(0)
    for name in [*module.files_of(made), SUMS]:
        whole = (made / name).read_bytes()
        for place in range(len(whole)):
            other = draw.choice([value for value in range(256) if value != whole[place]])
            (made / name).write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            assert damage(made), (name, place)
        (made / name).write_bytes(whole)
    assert damage(made) is None


@pytest.mark.parametrize("length", [0, 1, 63])
def test_a_file_that_is_cut(tmp_path: Path, length: int) -> None:
    made = write_checkpoint(tmp_path, 3, fill)
    os.truncate(made / "weights", length)
    assert damage(made) == f"its content is not what was saved (weights differ from {SUMS})"


def test_a_file_too_many_or_too_few(tmp_path: Path) -> None:
    made = write_checkpoint(tmp_path, 3, fill)
    (made / "new").write_text("")
    assert damage(made) == f"its content is not what was saved (new differ from {SUMS})"
    (made / "new").unlink()
    (made / "weights").unlink()
    assert damage(made, "weights") == "it lacks weights"
    assert damage(made) == f"its content is not what was saved (weights differ from {SUMS})"


def test_a_link_out_of_the_checkpoint_is_read_as_what_it_leads_to(tmp_path: Path) -> None:
    made = write_checkpoint(tmp_path, 3, fill)
    (tmp_path / "elsewhere").write_bytes(b"other")
    (made / "weights").unlink()
    (made / "weights").symlink_to(tmp_path / "elsewhere")
    assert damage(made)


def test_one_that_is_damaged_gives_way_to_one_that_is_whole(tmp_path: Path) -> None:
    made = write_checkpoint(tmp_path, 3, fill)
    (made / "weights").write_bytes(b"")
    assert damage(write_checkpoint(tmp_path, 3, fill)) is None


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [1, 2, 10, 20]),
        (0, None, [1, 2, 10, 20]),
        (2, None, [10, 20]),
        (2, 1, [1, 20]),
        # The newest is what resuming needs, the best what was asked for.
        (1, 1, [1, 20]),
        (1, 20, [20]),
        (9, None, [1, 2, 10, 20]),
    ],
)
def test_retention_goes_by_step(tmp_path: Path, limit: int | None, best: int | None, left: list[int]) -> None:
    for step in (20, 1, 10, 2):
        write_checkpoint(tmp_path, step, fill)
    # A clock that jumped: the oldest step looks like the newest file.
    os.utime(tmp_path / "checkpoint-1", (2**31, 2**31))
    keep_newest(tmp_path, limit, best=tmp_path / f"checkpoint-{best}" if best else None)
    assert [int(c.name.rpartition("-")[2]) for c in checkpoints(tmp_path)] == left


def test_sweeping_names_what_is_whole_and_removes_the_rest(tmp_path: Path) -> None:
    """A crash between writing and renaming, between renaming and deleting, and in the midst of writing."""
    write_checkpoint(tmp_path, 5, fill).rename(tmp_path / ".checkpoint-5.writing")
    write_checkpoint(tmp_path, 4, fill).rename(tmp_path / ".checkpoint-4.deleting")
    write_checkpoint(tmp_path, 6, fill).rename(tmp_path / ".checkpoint-6.writing")
    (tmp_path / ".checkpoint-6.writing" / "weights").write_bytes(b"half")
    write_checkpoint(tmp_path, 3, fill)
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-5"]


def full(*_words: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_need_and_space_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, 3, fill)
    monkeypatch.setattr(module, "settle_file", full)
    message = (
        r"checkpoint-4 could not be saved: the disk of .* is full: more than .* MiB are needed, .* MiB are free"
        r"(.|\n)*checkpoint-3 is whole: go on from it"
    )
    with pytest.raises(RunDirectoryError, match=message):
        write_checkpoint(tmp_path, 4, fill)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-3"]


def test_a_directory_that_vanished(tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()

    def vanish(_directory: Path) -> None:
        shutil.rmtree(output)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    with pytest.raises(RunDirectoryError, match=r"run is gone\nThere is no earlier checkpoint"):
        write_checkpoint(output, 4, vanish)


def test_errors_of_our_own_stay_what_they_are(tmp_path: Path) -> None:
    def fail(_directory: Path) -> None:
        raise RunDirectoryError("something else")

    with pytest.raises(RunDirectoryError, match=r"^something else$"):
        write_checkpoint(tmp_path, 4, fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written: Read-only file system"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "is full"),
        (RuntimeError("Error while serializing: IoError(Os { code: 28, kind: StorageFull })"), "is full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "is full"),
        (RuntimeError("Error while serializing: I/O error: bad (os error 5)"), "cannot be written"),
        (RuntimeError("something else"), None),
    ],
)
def test_failures_of_writing_are_told_apart(tmp_path: Path, error: Exception, text: str | None) -> None:
    found = write_failure(error, tmp_path, 1 << 20)
    assert found is None if text is None else text in (found or "")


def test_the_result_appears_file_by_file_but_each_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_text("old")
    monkeypatch.setattr(module, "settle_file", full)
    with pytest.raises(RunDirectoryError, match="checkpoint-result could not be saved: the disk of"):
        write_files(tmp_path, fill)
    assert (tmp_path / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]
    monkeypatch.undo()
    write_files(tmp_path, fill)
    assert (tmp_path / "weights").read_bytes() == bytes(range(64))


def test_room_is_looked_for_before_the_start(tmp_path: Path) -> None:
    check_room(tmp_path, 1)
    with pytest.raises(RunDirectoryError, match=r"MiB free; a checkpoint beside its predecessor needs about"):
        check_room(tmp_path, 1 << 60)
