"""files.py: nothing outside of what is named is touched, and a file is whole or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.strangers.victims import VICTIM, names_in

from neuralchat.files import (
    append_line,
    copy_file,
    make_private_directory,
    read_file,
    remove_file,
    remove_tree,
    settle_file,
    write_file,
    write_new_file,
)


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def dangling(path: Path, target: Path) -> None:
    path.symlink_to(target.with_name("not there"))


def hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


def pipe(path: Path, _target: Path) -> None:
    os.mkfifo(path)


TRAPS = pytest.mark.parametrize("trap", [link, dangling, hard_link, pipe])
WRITERS = pytest.mark.parametrize("write", [write_file, append_line])


@TRAPS
@WRITERS
def test_what_somebody_put_in_the_place_of_a_file_makes_way(
    trap: Callable, write: Callable, place: Path, victim: Path
) -> None:
    trap(place / "file", victim)
    write(place / "file", "ours")
    assert victim.read_text() == VICTIM
    assert not victim.with_name("not there").exists()
    assert (place / "file").read_text().strip() == "ours"
    assert not (place / "file").is_symlink()
    assert (place / "file").stat().st_nlink == 1
    assert names_in(place) == ["file"]


@WRITERS
def test_a_directory_in_the_place_of_a_file_is_told(write: Callable, place: Path) -> None:
    (place / "file").mkdir()
    with pytest.raises(OSError, match=r"is a directory, not a file|Is a directory"):
        write(place / "file", "ours")
    assert names_in(place) == ["file"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_modes_come_from_the_umask(umask: int, mode: int, place: Path) -> None:
    before = os.umask(umask)
    try:
        write_file(place / "a", "x")
        append_line(place / "b", "x")
        write_new_file(place / "c", "x")
        copy_file(place / "a", place / "d")
        make_private_directory(place / "deep" / "private")
        # As safetensors makes its files.
        (place / "weights").mkdir()
        os.close(os.open(place / "weights" / "e", os.O_CREAT | os.O_WRONLY, 0o600))
        settle_file(place / "weights" / "e")
    finally:
        os.umask(before)
    assert {(place / name).stat().st_mode & 0o777 for name in (*"abcd", "weights/e")} == {mode}
    assert names_in(place / "weights") == ["e"]
    assert {(place / name).stat().st_mode & 0o777 for name in ("deep", "deep/private")} == {0o700}


def test_a_new_file_replaces_nothing(place: Path, victim: Path) -> None:
    for trap in (link, dangling, pipe):
        trap(place / "file", victim)
        with pytest.raises(FileExistsError):
            write_new_file(place / "file", "ours")
        with pytest.raises(FileExistsError):
            copy_file(victim, place / "file")
        remove_file(place / "file")
    assert victim.read_text() == VICTIM


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(place / "file", "old")

    def full(_descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_file(place / "file", "new")
    assert (place / "file").read_text() == "old"
    assert names_in(place) == ["file"]


def test_many_writers_at_once_leave_one_whole_file(place: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from neuralchat.files import write_file\n"
        "for _ in range(50): write_file(Path(sys.argv[1]), sys.argv[2] * 5000)"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(place / "file"), letter]) for letter in "abc"]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert (place / "file").read_text() in {letter * 5000 for letter in "abc"}
    assert names_in(place) == ["file"]


@pytest.mark.parametrize("trap", [pipe, lambda path, _: path.symlink_to("/dev/zero")])
def test_what_never_ends_is_not_read(trap: Callable, place: Path, victim: Path) -> None:
    trap(place / "file", victim)
    with pytest.raises(OSError, match=r"is a (pipe|device), not a file"):
        read_file(place / "file", 100)


def test_what_is_too_large_is_not_read(victim: Path) -> None:
    assert read_file(victim, len(VICTIM)) == VICTIM.encode()
    with pytest.raises(OSError, match="is larger than"):
        read_file(victim, len(VICTIM) - 1)


@pytest.mark.parametrize("trap", [link, dangling, hard_link, pipe])
def test_of_a_link_the_link_is_deleted(trap: Callable, place: Path, victim: Path) -> None:
    trap(place / "tree", victim)
    remove_tree(place / "tree")
    assert names_in(place) == []
    assert victim.read_text() == VICTIM


def test_links_inside_of_a_tree_are_not_gone_into(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text(VICTIM)
    (place / "tree" / "deep").mkdir(parents=True)
    (place / "tree" / "deep" / "link").symlink_to(tmp_path / "mine")
    (place / "other").symlink_to(tmp_path / "mine")
    for name in ("tree", "other", "nothing"):
        remove_tree(place / name)
    assert names_in(place) == []
    assert (tmp_path / "mine" / "notes").read_text() == VICTIM
