"""All that a person is shown goes through here: cleaned, in the encoding of its stream, and never the end of a run.

Nobody else prints. The text is the same for a terminal and for a file, since a log is read on a terminal too.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from neuralchat.console.terminal import visible
from neuralchat.errors import NeuralChatError
from neuralchat.secrets import masked


class OutputLostError(NeuralChatError):
    """Standard output that cannot be written, in a command whose output is its work."""

    def __init__(self, error: Exception) -> None:
        # Whoever reads no further, such as `head`, has what was asked for.
        self.is_reader_gone = isinstance(error, BrokenPipeError)
        super().__init__(f"standard output cannot be written: {reason_of(error)}")


def shown_text(text: str) -> str:
    """What may be written anywhere: no control characters, nothing that reorders text, no secrets."""
    return masked(visible(text))


def put(text: object, stream: Any = None, *, end: str = "\n") -> None:
    """Write a text to standard output, or to `stream`."""
    stream = sys.stdout if stream is None else stream
    # None: the stream was closed when the program began.
    if stream is not None:
        sturdy = stream if isinstance(stream, Sturdy) else Sturdy(stream)
        sturdy.write(shown_text(str(text)) + end)
        sturdy.flush()


class Sturdy:
    """A stream that can be lost without harm: what it cannot take it spells out, and after a failure it takes anything.

    `is_work`: raise OutputLostError when it is lost, once. Otherwise `lost` says why.
    """

    def __init__(self, stream: TextIO, *, is_work: bool = False) -> None:
        self.stream = stream
        self.is_work = is_work
        self.lost: Exception | None = None

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            self.attempt(lambda: self.stream.write(spelled_out(text, self.stream.encoding)))
        except RuntimeError:
            self.write_beneath(text)
        except (OSError, ValueError) as error:
            self.lose(error)
        return len(text)

    def flush(self) -> None:
        self.attempt(self.stream.flush)

    def write_beneath(self, text: str) -> None:
        """A signal came while a line was being written, and its handler has something to say as well: the buffer takes
        nothing then, and drops it.
        """
        with suppress(OSError, ValueError, AttributeError):
            os.write(self.stream.fileno(), text.encode(self.stream.encoding or "utf-8", "backslashreplace"))

    def attempt(self, work: Any) -> None:
        try:
            work()
        except RuntimeError:
            # As above; whoever was interrupted flushes what is left.
            return
        except (OSError, ValueError) as error:
            self.lose(error)

    def lose(self, error: Exception) -> None:
        is_first, self.lost = self.lost is None, self.lost or error
        with suppress(OSError, ValueError):
            # What is still on its way, and what Python flushes at its end, would fail again.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())
            os.close(null)
        if self.is_work and is_first:
            raise OutputLostError(error) from error

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def spelled_out(text: str, encoding: str | None) -> str:
    """
    >>> spelled_out("é", "ascii")
    '\\\\xe9'
    """
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def reason_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return "its reader has ended" if error.errno == errno.EPIPE else os.strerror(error.errno)
    return str(error)


def fill_closed_streams() -> None:
    """Where the program was started without standard streams, the next file that it opens would have the number of one,
    and whatever a library prints would end in that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest number that is free.
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def sturdy_streams(*, output_is_work: bool) -> Iterator[None]:
    """Within, whatever prints, a library too, cannot fail at it.

    `output_is_work`: what goes to standard output is what the command is for, so that its loss ends it.
    """
    before = sys.stdout, sys.stderr
    if sys.stdout is not None:
        sys.stdout = Sturdy(sys.stdout, is_work=output_is_work)
    if sys.stderr is not None:
        sys.stderr = Sturdy(sys.stderr)
    try:
        yield
        if isinstance(sys.stdout, Sturdy):
            sys.stdout.flush()
            if sys.stdout.lost is not None and not output_is_work:
                put(f"note: standard output was not written to its end: {reason_of(sys.stdout.lost)}", sys.stderr)
    finally:
        sys.stdout, sys.stderr = before
