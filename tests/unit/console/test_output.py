"""console/output.py: what is shown is clean, and an output that fails ends nothing but itself."""

from __future__ import annotations

import errno
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuralchat import secrets
from neuralchat.console.output import OutputLostError, put, shown_text, sturdy_streams
from neuralchat.console.terminal import visible

ESCAPES = {
    "title": "\x1b]0;pwned\x07",
    "clear": "\x1b[2J\x1b[H",
    "clipboard": "\x1b]52;c;cHduZWQ=\x07",
    "c1": "\x9b2J\x9d0;a\x9c",
    "bell": "\a",
    "back": "abc\b\b\bxyz",
    "return": "good\rbad",
    "delete": "\x7f",
    "nul": "a\0b",
    "form": "a\fb\vc",
    "bidi": "\u202egnp.exe",
    "isolate": "\u2066a\u2069",
    "line": "a\u2028b\u2029",
    "half": "\ud83d",
    "bytes": "caf\udce9",
}
FORBIDDEN = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
FORBIDDEN -= set("\n\t")


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_that_a_terminal_obeys_is_shown(name: str) -> None:
    text = shown_text(f"before {ESCAPES[name]} after")
    assert not FORBIDDEN & set(text)
    assert text.startswith("before ")
    assert text.endswith(" after")
    # Whoever looks sees that something was there.
    assert text != f"before {ESCAPES[name]} after"
    text.encode("utf-8")


@pytest.mark.parametrize("text", ["Grüße, 你好, नमस्ते", "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "שלום \u200f(a)", "a\n\tb", "مرحبا"])
def test_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_line_ends_of_other_systems_are_line_ends() -> None:
    assert visible("a\r\nb") == "a\nb"


def test_a_secret_is_not_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "remembered", {"s3cr3t"})
    put("the s3cr3t is s3cr3t")
    assert capsys.readouterr().out == "the *** is ***\n"


def test_what_the_encoding_lacks_is_spelled_out() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    put("answer: 你好 é", stream)
    assert raw.getvalue() == b"answer: \\u4f60\\u597d \\xe9\n"


class Broken(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


ERRORS = [BrokenPipeError(errno.EPIPE, "x"), OSError(errno.ENOSPC, "x"), OSError(errno.EIO, "x"), ValueError("closed")]


@pytest.mark.parametrize("error", ERRORS)
def test_a_stream_that_fails_harms_nobody(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(error))
    monkeypatch.setattr(sys, "stderr", Broken(error))
    with sturdy_streams(output_is_work=False):
        put("a")
        print("a library prints", flush=True)
        print("too", file=sys.stderr, flush=True)
    assert isinstance(sys.stdout, Broken)


@pytest.mark.parametrize("error", ERRORS)
def test_a_command_whose_work_is_output_ends(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(error))
    with pytest.raises(OutputLostError) as caught, sturdy_streams(output_is_work=True):
        put("a")
    assert caught.value.is_reader_gone == isinstance(error, BrokenPipeError)


def test_what_was_lost_is_told_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(OSError(errno.ENOSPC, "x")))
    with sturdy_streams(output_is_work=False):
        put("a")
    assert "standard output was not written to its end: No space left on device" in capsys.readouterr().err


class Interrupted(io.RawIOBase):
    """A file in whose first write a signal comes, as the system's call is over and the buffer's is not."""

    def __init__(self, descriptor: int, handler: Callable[[], None]) -> None:
        self.descriptor, self.handler, self.came = descriptor, handler, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def write(self, block: Any) -> int:
        count = os.write(self.descriptor, block)
        if not self.came:
            self.came = True
            self.handler()
        return count


def test_a_line_of_a_signal_handler_within_another_is_seen() -> None:
    reader, writer = os.pipe()
    raw = Interrupted(writer, lambda: put("stopping", stream))
    stream = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", line_buffering=True)
    put("step 1", stream)
    put("step 2", stream)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        assert file.read() == "step 1\nstopping\nstep 2\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("ends", ["full", "pipe"])
def test_the_end_of_the_interpreter_is_quiet(ends: str) -> None:
    """Python flushes standard output once more at its end, and says so where that fails."""
    code = (
        "from neuralchat.console.output import put, sturdy_streams\n"
        "with sturdy_streams(output_is_work=False):\n    put('a' * 100000)"
    )
    if ends == "full":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    result = subprocess.run(
        [sys.executable, "-c", code], stdout=target, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    os.close(target)
    assert result.returncode == 0
    assert "Exception ignored" not in result.stderr
    assert "standard output was not written to its end" in result.stderr


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What a library prints to standard error would be written into it."""
    code = (
        "import os, sys; from neuralchat import cli\n"
        "def work():\n"
        "    with open(sys.argv[1], 'w') as file: print(file.fileno(), file=file)\n"
        "    os.write(2, b'of a library')\n"
        "    return 0\n"
        "sys.exit(cli.guarded(work))"
    )
    command = f"exec {sys.executable} -c {shlex.quote(code)} {tmp_path / 'file'} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False, timeout=100).returncode == 0
    assert int((tmp_path / "file").read_text()) > 2
