"""Checkpoints that are whole or absent, and told apart: written beside, hashed, synced, renamed.

A checkpoint ends with SHA256SUMS, in the format of the sha256sum command, so `sha256sum -c SHA256SUMS` checks it too.
It is whole if that file is, byte for byte, what its other files give.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from neuralchat.console import mib
from neuralchat.errors import NeuralChatError, RunDirectoryError, system_error_line
from neuralchat.files import (
    WRITING,
    file_sha256,
    make_directory,
    make_new_directory,
    move,
    read_file,
    remove_file,
    remove_tree,
    replace_file,
    settle_file,
    sync_directory,
    write_new_file,
)
from neuralchat.runs.directory import (
    IDENTITY as IDENTITY,
)
from neuralchat.runs.directory import (
    checkpoints,
    is_checkpoint_name,
    nearest_existing,
)

SUMS = "SHA256SUMS"
STATE = "training_state.safetensors"
TRAINER_STATE = "trainer_state.json"
DELETING = ".deleting"
# A line for each file of a checkpoint.
MAX_SUMS_BYTES = 1 << 20


def write_checkpoint(output: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Make OUTPUT/checkpoint-STEP: `write(directory)` fills it, then it is hashed, synced and renamed.

    Raises RunDirectoryError when the disk is full or the directory cannot be written; what was there before stays
    as it was.
    """
    target = output / f"checkpoint-{step}"
    with beside_its_place(output, target.name) as beside:
        write(beside)
        for file in files_of(beside):
            settle_file(beside / file)
        write_new_file(beside / SUMS, sums_of(beside).encode())
        for directory in {(beside / file).parent for file in files_of(beside)}:
            sync_directory(directory)
        if target.exists():
            # A damaged one of the same step, from before a resumption.
            discard(target)
        move(beside, target)
        sync_directory(output)
    return target


def write_files(output: Path, write: Callable[[Path], None]) -> None:
    """Let `write(directory)` make files and put them into `output` when all are whole. Errors as write_checkpoint's."""
    with beside_its_place(output, "checkpoint-result") as beside:
        write(beside)
        names = files_of(beside)
        for name in names:
            settle_file(beside / name)
        for name in names:
            make_directory((output / name).parent)
            replace_file(beside / name, output / name)
        sync_directory(output)


@contextmanager
def beside_its_place(output: Path, name: str) -> Iterator[Path]:
    """A new directory to write `name` in; it is gone afterwards, and failures of writing become RunDirectoryErrors."""
    beside = output / f".{name}{WRITING}"
    try:
        with failures_told(output, name, beside):
            remove_tree(beside, ignore_errors=True)
            make_new_directory(beside)
            yield beside
    finally:
        remove_tree(beside, ignore_errors=True)


@contextmanager
def failures_told(output: Path, name: str, beside: Path | None = None) -> Iterator[None]:
    """While `name` is written to `output`: failures of writing become RunDirectoryErrors with all that helps."""
    try:
        yield
    except Exception as error:
        if (reason := write_failure(error, output, size_of(beside) if beside else 0)) is None:
            raise
        raise RunDirectoryError(f"{name} could not be saved: {reason}\n{what_is_left(output)}") from error


def check_room(output: Path, needed_bytes: int) -> None:
    """Raise RunDirectoryError unless the disk has room for a checkpoint of that size, and its successor beside it."""
    free = shutil.disk_usage(output).free
    if free < needed_bytes:
        raise RunDirectoryError(
            f"the disk of {output} has {mib(free)} free; a checkpoint beside its predecessor needs about "
            f"{mib(needed_bytes)}. Make room, or choose another --output_dir."
        )


def write_failure(error: BaseException, output: Path, needed_bytes: int) -> str | None:
    """What to tell of an error while writing to `output`; None if it is no failure of writing.

    safetensors reports failures of the system as its own error, with the system's number in the text.
    """
    text = str(error)
    if is_disk_full(error):
        free = shutil.disk_usage(nearest_existing(output)).free
        return (
            f"the disk of {output} is full: more than {mib(needed_bytes)} are needed, {mib(free)} are free. "
            "Make room, or keep fewer checkpoints with --save_total_limit."
        )
    if not output.is_dir() and not isinstance(error, NeuralChatError):
        return f"the directory {output} is gone"
    if isinstance(error, OSError):
        return f"{output} cannot be written: {error.strerror or text}"
    if "IoError" in text or "I/O error" in text:
        return f"{output} cannot be written: {text}"
    return None


def is_disk_full(error: BaseException) -> bool:
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in numbers:
        return True
    return any(f"os error {n})" in str(error) or f"code: {n}," in str(error) for n in numbers)


def what_is_left(output: Path) -> str:
    """Which checkpoint a user still has, and how to go on from it."""
    whole = next((c for c in reversed(checkpoints(output)) if damage(c) is None), None)
    if whole is None:
        return "There is no earlier checkpoint."
    return f"{whole} is whole: go on from it with the same command and --resume_from_checkpoint auto."


def size_of(directory: Path) -> int:
    if not directory.is_dir():
        return 0
    return sum((directory / name).stat().st_size for name in files_of(directory))


def files_of(directory: Path) -> list[str]:
    """Paths of all files below `directory`, relative to it, sorted; SHA256SUMS is not among them."""
    found = (str(p.relative_to(directory)) for p in directory.rglob("*") if not p.is_dir() or p.is_symlink())
    return sorted(name for name in found if name != SUMS)


def sums_of(directory: Path) -> str:
    """What SHA256SUMS of this directory has to say."""
    return "".join(f"{file_sha256(directory / name)}  {name}\n" for name in files_of(directory))


def damage(checkpoint: Path, *needed: str) -> str | None:
    """Why this directory is no whole checkpoint, naming the files; None if it is whole and has the `needed` files."""
    try:
        lacking = [name for name in (*needed, SUMS) if not (checkpoint / name).is_file()]
        if lacking:
            return f"it lacks {', '.join(lacking)}"
        stored = read_file(checkpoint / SUMS, MAX_SUMS_BYTES)
        found = sums_of(checkpoint)
    except OSError as error:
        return f"it cannot be read: {system_error_line(error)}"
    if stored == found.encode():
        return None
    written = dict(line.split("  ", 1)[::-1] for line in stored.decode("utf-8", "replace").split("\n") if "  " in line)
    there = dict(line.split("  ", 1)[::-1] for line in found.splitlines())
    wrong = sorted(name for name in {*written, *there} if written.get(name) != there.get(name))
    return f"its content is not what was saved ({', '.join(wrong[:4]) or SUMS} differ from {SUMS})"


def read_sums(checkpoint: Path) -> bytes:
    """What SHA256SUMS says, to be compared when all is read. Raises RunDirectoryError where it cannot be read."""
    try:
        return read_file(checkpoint / SUMS, MAX_SUMS_BYTES)
    except OSError as error:
        raise RunDirectoryError(f"{checkpoint / SUMS} cannot be read: {error.strerror}") from error


def check_unchanged(checkpoint: Path, sums: bytes) -> None:
    """Raise RunDirectoryError unless the checkpoint is still the one with these `sums`, and whole.

    Asked when its files have been read: between the check and the reading lie minutes, in which it may be replaced.
    """
    wrong = damage(checkpoint)
    if wrong is None and read_sums(checkpoint) != sums:
        wrong = "it was replaced by another"
    if wrong is not None:
        raise RunDirectoryError(
            f"checkpoint {checkpoint} changed while it was read: {wrong}. Nothing of it is used; try again when nobody "
            "else writes there."
        )


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint so that a crash on the way leaves no part of it under its name."""
    leaving = checkpoint.with_name(f".{checkpoint.name}{DELETING}")
    remove_tree(leaving, ignore_errors=True)
    move(checkpoint, leaving)
    sync_directory(checkpoint.parent)
    remove_tree(leaving, ignore_errors=True)


def keep_newest(output: Path, limit: int | None, *, best: Path | None = None) -> None:
    """Delete the oldest checkpoints beyond `limit` (None or 0: keep all); never the newest, nor the `best`.

    Age goes by step, since clocks jump.
    """
    if not limit:
        return
    found = checkpoints(output)
    kept = {found[-1].name, *([best.name] if best is not None else [])} if found else set()
    surplus = len(found) - max(limit, len(kept))
    for checkpoint in [c for c in found if c.name not in kept][: max(surplus, 0)]:
        discard(checkpoint)


def sweep(output: Path) -> None:
    """Settle what a crash left half-written or half-deleted. Only for whoever holds the directory's lock.

    A checkpoint that is whole but was not renamed yet gets its name.
    """
    for leftover in sorted(output.glob(f".checkpoint-*{WRITING}")):
        target = output / leftover.name.removeprefix(".").removesuffix(WRITING)
        is_own = is_checkpoint_name(target.name) and not leftover.is_symlink()
        if is_own and not os.path.lexists(target) and damage(leftover) is None:
            move(leftover, target)
    for leftover in (*output.glob(f".checkpoint-*{WRITING}"), *output.glob(f".checkpoint-*{DELETING}")):
        remove_tree(leftover, ignore_errors=True)
    # Files that were being written beside their places.
    for leftover in output.glob(f".*{WRITING}"):
        if not leftover.is_dir():
            remove_file(leftover)
