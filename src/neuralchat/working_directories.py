"""Directories that a process works in while others may: several files that come to their places together or not at all.

Each is locked by the process that made it. What a killed process left behind is told from what is at work by the lock,
whatever the clock says.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from neuralchat.files import NO_LINK, is_plain_name, read_file, remove_file, remove_tree, sync_directory, write_new_file

# In a working directory: the names of the files that leave it for their places.
PLACED = ".placed.json"
MAX_PLACED_BYTES = 1 << 20


@contextmanager
def working_directory_in(parent: Path, prefix: str) -> Iterator[Path]:
    """A new private directory that is gone afterwards. A killed process leaves it to `sweep_abandoned`.

    It is locked meanwhile, which ends with the process that made it.
    """
    path, descriptor = new_locked_directory(parent, prefix)
    try:
        yield path
    finally:
        os.close(descriptor)
        remove_tree(path, ignore_errors=True)


def new_locked_directory(parent: Path, prefix: str) -> tuple[Path, int]:
    """(directory, descriptor that holds its lock); made anew where somebody swept it before it was locked."""
    while True:
        path = parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
        path.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | NO_LINK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            except OSError:
                # A file system without locks, on which nobody sweeps either.
                return path, descriptor
            if path.exists():
                return path, descriptor
            os.close(descriptor)


@contextmanager
def lock_of_abandoned(path: Path) -> Iterator[None]:
    """Holds a working directory whose process is gone; OSError where it is at work, whatever the clock says."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | NO_LINK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sweep_abandoned(parent: Path, prefix: str) -> list[Path]:
    """Delete the working directories of processes that were killed; returns what was deleted."""
    swept = []
    for path in sorted(parent.glob(f"{prefix}*")):
        with suppress(OSError), lock_of_abandoned(path):
            remove_tree(path)
            swept.append(path)
    return swept


def place_files(work: Path, target: Path, names: Sequence[str]) -> None:
    """Move files from a working directory in `target` to `target`, in this order; all of them or none.

    A process that is killed meanwhile leaves word of which, so that `undo_abandoned` finds them.
    """
    write_new_file(work / PLACED, json.dumps(list(names)))
    try:
        for name in names:
            os.replace(work / name, target / name)
    except BaseException:
        for name in names:
            if not os.path.lexists(work / name):
                remove_file(target / name)
        raise
    sync_directory(target)


def undo_abandoned(target: Path, prefix: str) -> None:
    """Delete what killed processes left in `target`: working directories, and files that they had begun to place.

    Only if it holds nothing else: files of theirs that had all found their places stay, and so does all of others.
    """
    with suppress(OSError, ValueError), ExitStack() as locks:
        works = sorted(target.glob(f"{prefix}*"))
        for work in works:
            locks.enter_context(lock_of_abandoned(work))
        placed = {name for work in works for name in unfinished(work)}
        if works and {path.name for path in target.iterdir()} <= placed | {work.name for work in works}:
            # What says which files they are goes last, lest this be killed too.
            for name in sorted(placed):
                remove_file(target / name)
            for work in works:
                remove_tree(work)


def unfinished(work: Path) -> list[str]:
    """The names that `place_files` was to move from `work`, if one of them is there still."""
    try:
        names = json.loads(read_file(work / PLACED, MAX_PLACED_BYTES))
        plain = [name for name in names if is_plain_name(name)]
    except (OSError, ValueError, TypeError, RecursionError):
        return []
    return plain if any(os.path.lexists(work / name) for name in plain) else []
