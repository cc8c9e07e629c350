"""A command on a pseudo-terminal: what a person sees, and what is typed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from support.terminals.screens import screen_lines

ROWS_AND_COLUMNS = (40, 90)
LIMIT_S = 120.0


def as_a_shell_starts_it() -> None:
    """With the terminal its own."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class RunOnTerminal:
    """A command whose three streams are one terminal."""

    def __init__(self, words: list[object], directory: Path) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *ROWS_AND_COLUMNS, 0, 0))
        chosen = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")} | chosen
        self.process = subprocess.Popen(
            [sys.executable, "-m", "neuralchat.cli", *map(str, words)],
            cwd=directory, env=environ, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=as_a_shell_starts_it,
        )  # fmt: skip
        os.close(slave)
        self.written = b""

    @property
    def lines(self) -> list[str]:
        return screen_lines(self.written.decode("utf-8", "replace"))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def read_until(self, wanted: bytes | None) -> None:
        """Until the bytes have been written, or with None until the command has ended."""
        end = time.monotonic() + LIMIT_S
        while wanted is None or wanted not in self.written:
            assert time.monotonic() < end, self.written[-2000:]
            if not select.select([self.master], [], [], 1.0)[0]:
                continue
            try:
                block = os.read(self.master, 4096)
            except OSError:
                # Linux says so of a terminal that nobody has open any more.
                block = b""
            if not block:
                assert wanted is None, self.lines
                return
            self.written += block
