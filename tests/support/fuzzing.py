"""What tests of readers share: a limit of time for a case, damage to bytes, the rows of a made-up file, and a process
whose memory is measured.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import strategies as st

from neuralchat.data.record_files import RawRow, SyntaxProblem, json_text, read_rows

SECONDS_A_CASE = 20


@contextmanager
def time_limit(seconds: int = SECONDS_A_CASE) -> Iterator[None]:
    """Fail where the block takes longer: a hang is found and not waited for."""

    def stop(number: int, frame: Any) -> NoReturn:
        raise AssertionError(f"took longer than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def cases(variable: str, short: int) -> dict[str, Any]:
    """Settings for a number of cases; the short form is the same each time."""
    wanted = os.environ.get(variable)
    return {"max_examples": int(wanted or short), "derandomize": wanted is None}


@st.composite
def damaged(draw: st.DrawFn, content: bytes, *, most: int = 3) -> bytes:
    """`content` with up to `most` places flipped, cut, doubled, filled or made longer."""
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.integers(1, 12))
        kind = draw(st.sampled_from(["flip", "cut", "end", "double", "insert", "fill"]))
        if kind == "flip":
            content = content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at] + content[at + length :]
        elif kind == "end":
            content = content[:at]
        elif kind == "double":
            content = content[:at] + content[at : at + length] * 2 + content[at + length :]
        elif kind == "insert":
            content = content[:at] + draw(st.sampled_from(INSERTED)) + content[at:]
        else:
            content = content[:at] + bytes(length) + content[at + length :]
    return content


INSERTED = [
    b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":",
    b"\\ud83d", b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"null", b"9" * 5000, b"\x1b[31m",
    b"\xe2\x80\xa8", b"<|end|>",
]  # fmt: skip


def measured(program: str, *words: object) -> tuple[str, float]:
    """(output, MiB of memory that grew) of a Python program that reads records in a process of its own."""
    measure = (
        "import resource, sys\n"
        "from neuralchat.data.records import RecordReport, read_records\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"before = peak()\n{program}\nprint((peak() - before) / 1024)"
    )
    result = subprocess.run(
        [sys.executable, "-c", measure, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    *output, grown = result.stdout.splitlines()
    return "\n".join(output), float(grown)


def rows_of(content: str | bytes, name: str = "a.json", block: int | None = None) -> list[RawRow | SyntaxProblem]:
    raw = content.encode() if isinstance(content, str) else content
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        if block:
            patch.setattr(json_text, "READ_BYTES", block)
        path = Path(directory) / name
        path.write_bytes(raw)
        return list(read_rows(path))


def values_of(rows: list[RawRow | SyntaxProblem]) -> list[Any]:
    assert [row.number for row in rows if isinstance(row, RawRow)] == list(range(1, len(rows) + 1)), rows
    return [row.value for row in rows if isinstance(row, RawRow)]


def only_problem(rows: list[RawRow | SyntaxProblem]) -> SyntaxProblem:
    problems = [row for row in rows if isinstance(row, SyntaxProblem)]
    assert len(problems) == 1, rows
    return problems[0]
