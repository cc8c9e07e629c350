"""The one place that writes files and deletes them: nothing outside of what is named is touched, and a file is whole.

A name that is written may be a link that somebody has put there. No link is followed in the last part of a path: a
new file takes its place. What leads there may be links; where a run is to be written is the user's word.

Modes come from the umask, except for private directories. What is written is on the disk when the call is over.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

WRITING = ".writing"
NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC


class NotARegularFileError(OSError):
    """A directory, a pipe or a device where a file should be."""

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__(errno.EINVAL, f"is {kind_of_mode(mode)}, not a file", str(path))


def kind_of_mode(mode: int) -> str:
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISLNK, "a link"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


# Writing


def write_file(path: Path, content: bytes | str, *, mode: int = 0o666) -> None:
    """Write beside, sync, rename: a reader sees the old file or the new one, never half of it.

    `mode`: of which the umask takes its part.
    """
    if isinstance(content, str):
        # Undecodable bytes of a path become \\udcxx, which JSON reads back.
        content = content.encode("utf-8", "backslashreplace")
    with parent_of(path) as parent:
        refuse_directory(path, parent)
        beside = f".{path.name[:200]}.{secrets.token_hex(4)}{WRITING}"
        try:
            write_at(parent, beside, content, mode)
            os.rename(beside, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside, dir_fd=parent)
            raise
        os.fsync(parent)


# Written and deleted to see whether a disk takes a file.
TRIED_BYTES = 64 << 10


def try_writing(path: Path) -> None:
    """Write a file beside `path` and delete it. Raises OSError where the disk is full, or takes none."""
    with parent_of(path) as parent:
        beside = f".{path.name[:200]}.{secrets.token_hex(4)}{WRITING}"
        try:
            write_at(parent, beside, b"x" * TRIED_BYTES)
        finally:
            with suppress(OSError):
                os.unlink(beside, dir_fd=parent)


def write_new_file(path: Path, content: bytes | str, *, mode: int = 0o666) -> None:
    """Write a file in a directory of our own, where nobody looks yet; synced. FileExistsError if the name is taken."""
    with parent_of(path) as parent:
        write_at(parent, path.name, content.encode() if isinstance(content, str) else content, mode)


def write_at(parent: int, name: str, content: bytes, mode: int = 0o666) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, mode, dir_fd=parent)
    with open(descriptor, "wb", buffering=0) as stream:
        view = memoryview(content)
        while view:
            view = view[stream.write(view) or 0 :]
        os.fsync(descriptor)


def append_line(path: Path, line: str, *, mode: int = 0o666, is_synced: bool = False) -> None:
    """Add a line to a file, in one piece; a link in its place makes way for a new file, of that mode.

    `is_synced`: it is on the disk when the call is over, which takes some milliseconds.
    """
    with parent_of(path) as parent:
        descriptor = open_own(path, parent, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode=mode)
        content = (line + "\n").encode("utf-8", "backslashreplace")
        try:
            size = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            except OSError:
                # No part of a line stays.
                os.ftruncate(descriptor, size)
                raise
            if is_synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def keep_beginning(path: Path, size: int) -> None:
    """Cut a file to its first `size` bytes."""
    with parent_of(path) as parent:
        descriptor = os.open(path.name, os.O_WRONLY | NO_LINK, dir_fd=parent)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_own(path: Path, parent: int, flags: int, *, mode: int = 0o666, keep_if_locked: bool = False) -> int:
    """Open the regular file `path` in the directory `parent`, for writing; what is a link is deleted first.

    A second name of another file (a hard link) is deleted too, so that the other keeps its content; with
    `keep_if_locked` not where a process has locked the file, and then that one is opened.
    """
    for _ in range(3):
        try:
            descriptor = os.open(path.name, flags | NO_LINK | os.O_NONBLOCK, mode, dir_fd=parent)
        except OSError as error:
            # A link; or a pipe that nobody reads.
            if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
                raise
        else:
            status = os.fstat(descriptor)
            # 0: the name was deleted after it was opened; whoever needs it to stay looks for that.
            if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
                return descriptor
            if keep_if_locked and stat.S_ISREG(status.st_mode) and is_locked(descriptor):
                return descriptor
            os.close(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise NotARegularFileError(path, status.st_mode)
        os.unlink(path.name, dir_fd=parent)
    raise OSError(errno.EBUSY, "is replaced again and again by another process", str(path))


def is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


@contextmanager
def parent_of(path: Path) -> Iterator[int]:
    """A descriptor of the directory that holds `path`, so that what is done there is done in one directory."""
    descriptor = open_directory(path.parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_directory(path: Path) -> int:
    """A descriptor that stays with this directory, whatever takes its name meanwhile."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def refuse_directory(path: Path, parent: int) -> None:
    with suppress(FileNotFoundError):
        mode = os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            raise NotARegularFileError(path, mode)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write a block at a time, in a directory of our own; synced. FileExistsError if the name is taken."""
    with parent_of(path) as parent:
        descriptor = os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666, dir_fd=parent)
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)


def copy_file(source: Path, target: Path) -> None:
    """A copy with the content of `source` and no more of it, in a directory of our own; synced."""
    with open(open_regular(source), "rb") as stream, new_file(target) as sink:
        shutil.copyfileobj(stream, sink, 1 << 20)


# Reading


def open_regular(path: Path) -> int:
    """A descriptor for reading a file; a pipe or a device, which may never end, is refused."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise NotARegularFileError(path, mode)
    return descriptor


def read_file(path: Path, most_bytes: int) -> bytes:
    """The content of a file. Raises OSError for what is none, or is larger than `most_bytes`."""
    with open(open_regular(path), "rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"is larger than {most_bytes >> 20} MiB", str(path))
    return content


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks. Raises OSError for what is no file, which might never end."""
    with open(open_regular(path), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Directories


def make_directory(path: Path) -> None:
    """The directory and those above it, by the umask; one that is there stays as it is."""
    path.mkdir(parents=True, exist_ok=True)


def make_new_directory(path: Path) -> None:
    """A directory that was not there. FileExistsError if the name is taken, by a link too."""
    path.mkdir()


def make_private_directory(path: Path) -> None:
    """The same, for nobody but its owner; only the directories that are made are given that mode."""
    for missing in reversed([place for place in (path, *path.parents) if not place.exists()]):
        with suppress(FileExistsError):
            missing.mkdir(mode=0o700)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def settle_file(path: Path) -> None:
    """For what a library has written: give it the mode of the umask, and wait until it is on the disk.

    safetensors makes files that nobody but the user may read.
    """
    with open(open_regular(path), "rb") as stream:
        os.fchmod(stream.fileno(), 0o666 & ~umask())
        os.fsync(stream.fileno())


def umask() -> int:
    """What is taken off the mode of a new file."""
    # Asking by os.umask would set it for a moment, for all threads.
    for line in Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").is_file() else ():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync_directory(path: Path) -> None:
    """Wait until names created, renamed or deleted in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Deleting and moving


def remove_file(path: Path) -> None:
    """Delete a file, or a link and not what it leads to; that it is not there is no error."""
    path.unlink(missing_ok=True)


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    """Delete a directory with all that is in it; of a link, the link. That nothing is there is no error."""
    try:
        # shutil.rmtree goes down by descriptors, so that no link that appears meanwhile leads it elsewhere.
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    except OSError:
        if not ignore_errors:
            raise


def remove_if_empty(path: Path) -> None:
    """The directory, unless there is something in it."""
    with suppress(OSError):
        path.rmdir()


def move(source: Path, target: Path) -> None:
    """Give a directory its name."""
    os.rename(source, target)


def replace_file(source: Path, target: Path) -> None:
    """Put a file that is whole into its place; what was there, a link as such, is gone at once."""
    os.replace(source, target)


def is_plain_name(name: object) -> bool:
    """Whether it is the name of something in a directory, and leads nowhere else."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name and "\0" not in name
