"""One run at a time in an output directory: a lock that the system drops with its process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from neuralchat.console import note
from neuralchat.errors import RunDirectoryError
from neuralchat.runs.directory import LOCK


class RunLock:
    """Held from `take` until the process ends or `release`; the file stays, which harms nobody."""

    def __init__(self, output: Path) -> None:
        self.path = output / LOCK
        self.stream: Any = None

    def take(self) -> None:
        """Raises RunDirectoryError naming the run that has the directory. Taking it twice is taking it once."""
        if self.stream is not None:
            return
        stream = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip()
            stream.close()
            raise RunDirectoryError(
                f"another run is writing to {self.path.parent}: {holder_name(holder)}. Wait for it, stop it, or choose "
                "another --output_dir."
            ) from None
        except OSError as error:
            note(f"{self.path.parent} cannot be locked ({error.strerror}); see that no other run writes to it")
        stream.truncate(0)
        me = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        stream.write(json.dumps({**me, "command": " ".join(sys.argv)[:500]}))
        stream.flush()
        self.stream = stream

    def release(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None


def holder_name(holder: str) -> str:
    try:
        other = json.loads(holder)
        return f"process {other['pid']} on {other['host']}, started {other['started']} ({other['command']})"
    except (ValueError, KeyError, TypeError):
        return "a process that left no name"
