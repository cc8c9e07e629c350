"""What a command does while a test looks on: what it opens for writing, starts, connects to, and says."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from support.fuzzing import time_limit


class Watch:
    """What this process opens for writing, starts, and connects to, by its audit events."""

    def __init__(self) -> None:
        self.allowed: list[str] = []
        self.found: list[str] = []
        self.watching = False
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
            self.found.append(f"{event} {arguments[:2]!r}"[:300])
        elif event in ("socket.connect", "socket.getaddrinfo"):
            self.found.append(f"{event} {arguments[1:]!r}"[:300])
        elif event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and isinstance(path, str) and path.startswith("/") and not self.is_allowed(path):
                self.found.append(f"open {path} {mode}")

    def is_allowed(self, path: str) -> bool:
        # Where a process resets the peak of its own memory.
        own = ("/dev/null", "/dev/tty", "/dev/shm", "/proc/self/clear_refs")
        return path.startswith((*own, *self.allowed))


def captured(work: Any, output: Path, watch: Watch) -> Any:
    """The exit status of `work`, or the error it raised; what it shows is written to `output`."""
    before = sys.stdout, sys.stderr
    with output.open("w", encoding="utf-8", errors="surrogateescape") as stream:
        sys.stdout = sys.stderr = stream
        watch.watching = True
        try:
            with time_limit(60):
                return work()
        except SystemExit as end:
            return end.code
        except BaseException as error:
            watch.watching = False
            traceback.print_exc(file=stream)
            return repr(error)
        finally:
            watch.watching = False
            sys.stdout, sys.stderr = before
