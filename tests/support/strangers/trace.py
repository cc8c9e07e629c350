"""What a process does to the system: files that it writes, connections, programs; by strace, or by Python's own audit.

strace sees libraries too, and every child; the audit sees what Python asks for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Calls that change what is on a disk, by which of their texts is the name that they change.
CHANGING = [
    "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "link", "linkat",
    "symlink", "symlinkat", "chmod", "fchmodat", "fchmodat2", "chown", "fchownat", "lchown", "truncate",
    "mknod", "mknodat", "utimensat", "setxattr", "creat",
]  # fmt: skip
OPENING = ("open", "openat", "openat2")
# Not all that name a file: an import looks for thousands. A call that the machine does not have is left out.
TRACED = ",".join(f"?{call}" for call in (*CHANGING, *OPENING, "fchmod", "fchown", "execve", "execveat")) + ",%network"
CHANGES = re.compile(rf"^\d+ +(?:{'|'.join(CHANGING)})\(")
OPENS = re.compile(rf"^\d+ +(?:{'|'.join(OPENING)})\(")
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND")
# AT_FDCWD</here>, or a descriptor with its path, and then a name.
NAME = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<base>[^>]*)>, )?"(?P<name>[^"]*)"')
CONNECTS = re.compile(r"^\d+ +(?:connect|sendto|sendmsg|sendmmsg)\(.*(?P<to>AF_INET6?|AF_UNIX)[^}]*\}")
STARTS = re.compile(r'^\d+ +execve(?:at)?\((?:[^"]*)"(?P<program>[^"]*)"')
FAILED = re.compile(r"= -1 E[A-Z]+")


@dataclass
class Trace:
    """`changed`: whole paths. `connected`: what was connected to. `started`: programs."""

    changed: set[str] = field(default_factory=set)
    connected: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)

    def outside(self, *places: str | Path) -> list[str]:
        """What was changed and does not lie in these places."""
        roots = [os.path.join(str(place), "") for place in places]
        inside = tuple(roots)
        return sorted(p for p in self.changed if not f"{p}/".startswith(inside))


def has_strace() -> bool:
    """Whether strace is there and may trace: containers forbid it now and then."""
    strace = shutil.which("strace")
    return (
        strace is not None and subprocess.run([strace, "-qq", "true"], capture_output=True, check=False).returncode == 0
    )


def traced(
    words: Sequence[str],
    directory: Path,
    environ: dict[str, str],
    *,
    meanwhile: Callable[[subprocess.Popen[bytes], Path], None] | None = None,
) -> tuple[int, str, Trace]:
    """(exit status, output, trace) of `neuralchat WORDS` in an interpreter of its own, with all its children.

    `meanwhile` is called with the running process (strace, which passes signals on to nobody) and the file of what
    it says.
    """
    log, said = directory / "strace", directory / "said"
    strace = [
        "strace",
        "--follow-forks",
        "--seccomp-bpf",
        "--quiet=all",
        "--decode-fds=path",
        "--string-limit=4096",
        "--signal=none",
        f"--trace={TRACED}",
        f"--output={log}",
    ]
    with said.open("wb") as output:
        process = subprocess.Popen(
            [*strace, sys.executable, "-m", "neuralchat.cli", *words],
            cwd=directory,
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        if meanwhile:
            meanwhile(process, said)
        status = process.wait(timeout=500)
    finally:
        process.kill()
    trace = Trace()
    for line in log.read_text(errors="replace").splitlines():
        read_line(line, directory, trace)
    return status, said.read_text(errors="replace"), trace


def read_line(line: str, directory: Path, trace: Trace) -> None:
    if CONNECTS.match(line) and "nscd/socket" not in line:
        trace.connected.add(line.split(" ", 1)[1][:200])
    if (started := STARTS.match(line)) and not FAILED.search(line):
        trace.started.add(started["program"])
    if FAILED.search(line):
        return
    if CHANGES.match(line) or (OPENS.match(line) and WRITES.search(line)):
        for found in NAME.finditer(line):
            trace.changed.add(os.path.normpath(os.path.join(found["base"] or directory, found["name"])))


class Audit:
    """The same of this process from now on, by Python's audit events, while `watching`."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.watching = True
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & WRITING_FLAGS:
                self.changed(path)
        elif event in ("os.rename", "os.link", "os.symlink", "shutil.move", "shutil.copyfile"):
            self.changed(arguments[1])
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.truncate", "shutil.rmtree"):
            self.changed(arguments[0])
        elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
            self.trace.started.add(str(arguments[0]))
        elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            self.trace.connected.add(repr(arguments[-1] if event == "socket.connect" else arguments[0])[:200])

    def changed(self, path: Any) -> None:
        # A name within a directory that is open says nothing of where it lies; strace does.
        if isinstance(path, str | bytes | os.PathLike) and os.path.isabs(os.fsdecode(path)):
            self.trace.changed.add(os.path.normpath(os.fsdecode(path)))


WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
