"""JSON lines -> stretches of whole lines that are decoded where they are needed, in another process too."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from neuralchat.data.record_files import json_text, rows
from neuralchat.data.record_files.json_text import HUGE_NUMBER, WHITESPACE, JsonDecoder, not_json
from neuralchat.data.record_files.rows import RawRow, Rows, SyntaxProblem, too_large

# What is read at once: where a packed file is damaged, no more than this is lost of what stands before.
PIECE_BYTES = 1 << 16
STRETCH_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class LineStretch:
    """Whole lines of UTF-8, one value each; empty ones are no rows. `number`: of the first row, `line`: of the first
    line, both counted from 1.
    """

    number: int
    line: int
    content: bytes

    def rows(self) -> Rows:
        decoder, number = LineDecoder(), self.number
        *whole, rest = self.content.decode("utf-8").split("\n")
        for line_number, line in enumerate(whole, start=self.line):
            if line and not line.isspace():
                yield decoder.row(f"{line}\n", number, line_number)
                number += 1
        if rest and not rest.isspace():
            yield decoder.row(rest, number, self.line + len(whole))


RowsOrStretches = Iterator[RawRow | SyntaxProblem | LineStretch]


def line_stretches(open_stream: Callable[[], BinaryIO]) -> RowsOrStretches:
    """All lines in order. From what cannot be decoded or is too large on, rows one by one."""
    row_count = line_count = consumed = 0
    with open_stream() as stream:
        for content in parts_of_lines(stream):
            lines = content.removeprefix(codecs.BOM_UTF8) if not consumed else content
            if len(lines) > rows.MAX_ROW_BYTES or not is_utf8(lines):
                break
            yield LineStretch(row_count + 1, line_count + 1, lines)
            row_count += rows_in(lines)
            line_count += lines.count(b"\n")
            consumed += len(content)
        else:
            return
    yield from rows_one_by_one(open_stream, consumed, row_count, line_count)


def parts_of_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The content in parts that end with a line, and of about STRETCH_BYTES where lines are not longer."""
    held, size = [], 0
    try:
        while piece := stream.read(PIECE_BYTES):
            held.append(piece)
            size += len(piece)
            if size >= STRETCH_BYTES and b"\n" in piece:
                whole, _, rest = piece.rpartition(b"\n")
                yield b"".join((*held[:-1], whole, b"\n"))
                held, size = [rest], len(rest)
            elif size > STRETCH_BYTES + rows.MAX_ROW_BYTES:
                # It is looked at again by who knows how to leave it out.
                yield b"".join(held)
                return
    except Exception:
        # The lines that could be read come before what is wrong with the rest.
        whole, ended, _ = b"".join(held).rpartition(b"\n")
        yield whole + ended
        raise
    if size:
        yield b"".join(held)


def is_utf8(content: bytes) -> bool:
    try:
        return content.isascii() or bool(content.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def rows_in(lines: bytes) -> int:
    """How many lines are not empty."""
    count = lines.count(b"\n") + (not lines.endswith(b"\n"))
    if lines.startswith(b"{") and lines.count(b"\n{") == count - 1:
        return count
    return sum(bool(line) and not line.isspace() for line in lines.decode("utf-8").split("\n"))


def rows_one_by_one(open_stream: Callable[[], BinaryIO], skipped: int, number: int, line_number: int) -> Rows:
    """Those behind the first `skipped` bytes, which have `number` rows and `line_number` lines.

    Raises UnicodeDecodeError at the line that is no UTF-8.
    """
    decoder, is_first = LineDecoder(), not skipped
    with open_stream() as stream:
        # A file that has become shorter since has nothing behind them.
        while skipped and (piece := stream.read(min(skipped, json_text.READ_BYTES))):
            skipped -= len(piece)
        while line := stream.readline(rows.MAX_ROW_BYTES + 1):
            line_number += 1
            if len(line) > rows.MAX_ROW_BYTES:
                number += 1
                yield SyntaxProblem(number, too_large(), False)
                while not line.endswith(b"\n") and line:
                    line = stream.readline(json_text.READ_BYTES)
                continue
            text = line.removeprefix(codecs.BOM_UTF8 if is_first else b"").decode("utf-8")
            is_first = False
            if text.strip():
                number += 1
                yield decoder.row(text, number, line_number)


class LineDecoder:
    """Lines -> rows. Most rows are objects of texts, whose quotes tell whether a key came twice: so no function has to
    be called for each object.
    """

    def __init__(self) -> None:
        self.decoder = JsonDecoder()
        self.plain = json.JSONDecoder()
        self.is_nested = False

    def row(self, text: str, number: int, line_number: int) -> RawRow | SyntaxProblem:
        """The row of a line, or what is wrong with it."""
        if not self.is_nested and (row := self.plain_row(text, number)) is not None:
            return row
        problem = None
        try:
            value = self.decoder.decoder.decode(text)
        except json.JSONDecodeError as error:
            comma = error.msg == "Extra data" and text[error.pos :].strip() == ","
            why = "a comma after the value; lines of JSON have none between them" if comma else error.msg
            problem = not_json(line_number, error.pos + 1, why)
        except RecursionError:
            problem = "is nested too deeply"
        except ValueError:
            problem = HUGE_NUMBER
        repeated = self.decoder.take_problems()
        return SyntaxProblem(number, problem, False) if problem else RawRow(number, value, repeated)

    def plain_row(self, text: str, number: int) -> RawRow | None:
        """None where the line has to be looked at more closely."""
        try:
            value, end = self.plain.raw_decode(text)
        except (ValueError, RecursionError):
            return None
        if type(value) is not dict or "\\\\" in text or text[end:].strip(WHITESPACE):
            return None
        kinds = list(map(type, value.values()))
        if dict in kinds or list in kinds:
            self.is_nested = True
            return None
        # Each text has two, those of a key that came twice too, whose value is one all the same.
        quotes = text.count('"') - text.count('\\"')
        return RawRow(number, value) if quotes == 2 * (len(value) + kinds.count(str)) else None
