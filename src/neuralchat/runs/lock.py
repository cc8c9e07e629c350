"""One run at a time in an output directory, one writer of a file: locks that the system drops with their process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from neuralchat.console import note
from neuralchat.errors import ArgumentsError, NeuralChatError, RunDirectoryError
from neuralchat.files import open_own, parent_of, remove_file
from neuralchat.runs.directory import LOCK
from neuralchat.secrets import masked_words

# Of what another run says of itself.
MAX_HOLDER_BYTES = 4096


class RunLock:
    """Held from `take` until the process ends or `release`; the file stays, which harms nobody."""

    def __init__(self, output: Path) -> None:
        self.path = output / LOCK
        self.descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        return self.descriptor is not None

    def take(self) -> None:
        """Raises RunDirectoryError naming the run that has the directory. Taking it twice is taking it once."""
        if self.is_held:
            return
        try:
            with parent_of(self.path) as parent:
                descriptor = locked(self.path, parent, self.taken)
        except OSError as error:
            raise RunDirectoryError(f"{self.path} cannot be written: {error.strerror or error}") from error
        me = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        command = " ".join(masked_words(sys.argv))[:500]
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({**me, "command": command}).encode())
        except OSError:
            # A full disk: the lock holds without a name.
            pass
        self.descriptor = descriptor

    def taken(self, descriptor: int) -> NeuralChatError:
        holder = os.pread(descriptor, MAX_HOLDER_BYTES, 0).decode("utf-8", "replace").strip()
        return RunDirectoryError(
            f"another run is writing to {self.path.parent}: {holder_name(holder)}. Wait for it, stop it, or "
            "choose another --output_dir."
        )

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def locked(path: Path, parent: int, taken: Callable[[int], NeuralChatError]) -> int:
    """The file, ours alone. What stood in its place and is no file of its own is deleted, not written to.

    `taken`: the error to raise where another process has it, from its descriptor.
    """
    while True:
        # A name that many hold together is ours only when nobody has locked it.
        descriptor = open_own(path, parent, os.O_RDWR | os.O_CREAT, keep_if_locked=True)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            error = taken(descriptor)
            os.close(descriptor)
            raise error from None
        except OSError as error:
            note(f"{path.parent} cannot be locked ({error.strerror}); see that no other run writes to it")
        if is_still_there(path, parent, descriptor):
            return descriptor
        os.close(descriptor)


def is_still_there(path: Path, parent: int, descriptor: int) -> bool:
    """Whether the name still leads to what was locked: whoever had it before may have deleted it."""
    try:
        return os.path.samestat(os.stat(path.name, dir_fd=parent, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """The file itself is the lock, made if need be and deleted if it stays empty.

    Raises ArgumentsError where another process is within.
    """
    taken = ArgumentsError(f"another command is writing to {path}; wait for it, stop it, or name another file")
    with parent_of(path) as parent:
        descriptor = locked(path, parent, lambda _: taken)
        try:
            yield
        finally:
            if not os.fstat(descriptor).st_size and is_still_there(path, parent, descriptor):
                remove_file(path)
            os.close(descriptor)


def holder_name(holder: str) -> str:
    try:
        other = json.loads(holder)
        return f"process {other['pid']} on {other['host']}, started {other['started']} ({other['command']})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "a process that left no name"
