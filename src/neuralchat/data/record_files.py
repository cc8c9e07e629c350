"""bytes on disk -> raw rows, streamed: a JSON array, JSON lines, CSV or parquet."""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from neuralchat.errors import DataError

READ_BYTES = 1 << 20
# A tokenizer takes 250 times the memory of the text it encodes at once: 8 MiB of text take 2 GB.
MAX_ROW_BYTES = 8 << 20
# Each row of a CSV file becomes a mapping of all columns, also where it has one cell.
MAX_COLUMNS = 1000
NUMBER_CHARACTERS = 400
WHITESPACE = " \t\r\n"
# The only ValueError of the decoder that is no syntax error is Python's limit on the digits of an integer.
HUGE_NUMBER = "holds a number of too many digits; write it as text"
# Few, since compression can hide the size of rows until they are read.
PARQUET_ROWS = 64
REPEATED_SHOWN = 5
# What a file may begin with that is no UTF-8 text; the longer mark comes before the one it begins with.
FOREIGN_BEGINNINGS = (
    (codecs.BOM_UTF32_LE, "is UTF-32 text; save the file as UTF-8"),
    (codecs.BOM_UTF32_BE, "is UTF-32 text; save the file as UTF-8"),
    (codecs.BOM_UTF16_LE, "is UTF-16 text; save the file as UTF-8"),
    (codecs.BOM_UTF16_BE, "is UTF-16 text; save the file as UTF-8"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"PK\x03\x04", "is a zip archive; unpack it first"),
    (b"PAR1", "is a parquet file; give it the ending .parquet"),
)


@dataclass(frozen=True, slots=True)
class RawRow:
    """A parsed row, numbered from 1, and what parsing itself noticed (such as a key given twice)."""

    number: int
    value: Any
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SyntaxProblem:
    """A part of a file that cannot be parsed. `fatal`: nothing after it can be read."""

    where: str
    what: str
    fatal: bool


def read_rows(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    """Stream the rows of a file by its ending. Raises DataError for an ending that is not known."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: records may be {', '.join(READERS)} files, found '{path.suffix or path.name}'")
    try:
        foreign = None if reader is read_parquet else foreign_content(path)
        if foreign:
            yield SyntaxProblem("", foreign, True)
            return
        yield from reader(path)
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        yield SyntaxProblem("", f"is not UTF-8: byte {byte} cannot be decoded; save the file as UTF-8", True)
    except OSError as error:
        yield SyntaxProblem("", f"cannot be read: {error.strerror or error}", True)


def foreign_content(path: Path) -> str | None:
    """The problem of a file whose first bytes are those of another encoding or an archive; None for any other."""
    with path.open("rb") as stream:
        head = stream.read(4)
    for beginning, what in FOREIGN_BEGINNINGS:
        if head.startswith(beginning):
            return what
    return "looks like UTF-16 text; save the file as UTF-8" if b"\0" in head[:2] else None


def too_large() -> str:
    return f"is larger than {MAX_ROW_BYTES >> 20} MiB"


def readable(text: str, limit: int = 40) -> str:
    """The beginning of a name as a message can show it: one line, nothing that a terminal would obey."""
    shown = text[:limit] + ("..." if len(text) > limit else "")
    return shown if shown.isprintable() else repr(shown)[1:-1]


class ObjectBuilder:
    """Collects keys that occur twice in one object while the JSON decoder builds it."""

    def __init__(self) -> None:
        self.repeated: list[str] = []
        self.decoder = json.JSONDecoder(object_pairs_hook=self.build)

    def build(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            counted = Counter(key for key, _ in pairs)
            repeated = sorted(key for key, times in counted.items() if times > 1)
            self.repeated += repeated[: REPEATED_SHOWN - len(self.repeated)]
        return built

    def take_problems(self) -> tuple[str, ...]:
        problems = tuple(f"field '{readable(key)}' is given more than once" for key in self.repeated)
        self.repeated.clear()
        return problems


def read_json(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    """A JSON array of objects, or, when the file starts otherwise, JSON lines."""
    buffer = JsonBuffer(path)
    with buffer.stream:
        start = buffer.skip_space(0)
        first = buffer.text[start : start + 1]
    yield from read_json_array(path) if first in ("[", "") else read_json_lines(path)


def read_json_lines(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    builder = ObjectBuilder()
    number = offset = 0
    with path.open("rb") as stream:
        while line := stream.readline(MAX_ROW_BYTES + 1):
            if len(line) > MAX_ROW_BYTES:
                number += 1
                yield SyntaxProblem(f" row {number}", too_large(), False)
                while not line.endswith(b"\n") and line:
                    offset += len(line)
                    line = stream.readline(READ_BYTES)
                offset += len(line)
                continue
            mark = len(codecs.BOM_UTF8) if offset == 0 and line.startswith(codecs.BOM_UTF8) else 0
            text = line[mark:].decode("utf-8")
            if text.strip():
                number += 1
                yield decode_line(text, builder, number, offset + mark)
            offset += len(line)


def decode_line(text: str, builder: ObjectBuilder, number: int, offset: int) -> RawRow | SyntaxProblem:
    """The row of a line that begins at byte `offset`, or what is wrong with it."""
    problem = None
    try:
        value = builder.decoder.decode(text)
    except json.JSONDecodeError as error:
        problem = f"is not JSON at byte {offset + len(text[: error.pos].encode())}: {error.msg}"
    except RecursionError:
        problem = "is nested too deeply"
    except ValueError:
        problem = HUGE_NUMBER
    repeated = builder.take_problems()
    return SyntaxProblem(f" row {number}", problem, False) if problem else RawRow(number, value, repeated)


class JsonBuffer:
    """A window on a text file that grows at the end and is cut at the front; knows its byte offset."""

    def __init__(self, path: Path) -> None:
        self.stream = path.open("rb")
        self.decode = codecs.getincrementaldecoder("utf-8")().decode
        self.text = ""
        self.bytes_before = len(codecs.BOM_UTF8) if self.stream.read(3) == codecs.BOM_UTF8 else 0
        self.stream.seek(self.bytes_before)
        self.ended = False

    def grow(self) -> None:
        block = self.stream.read(max(READ_BYTES, len(self.text)))
        self.ended = not block
        self.text += self.decode(block, final=self.ended)

    def drop(self, characters: int) -> None:
        self.bytes_before += len(self.text[:characters].encode())
        self.text = self.text[characters:]

    def skip_space(self, position: int) -> int:
        """The next position that is not white space; reads on where the text ends."""
        while True:
            while position < len(self.text) and self.text[position] in WHITESPACE:
                position += 1
            if position < len(self.text) or self.ended:
                return position
            self.grow()

    def byte_at(self, position: int) -> int:
        return self.bytes_before + len(self.text[:position].encode())


def read_json_array(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    """Stream a JSON array, decoding one element at a time."""
    buffer = JsonBuffer(path)
    with buffer.stream:
        position = buffer.skip_space(0)
        if position == len(buffer.text):
            yield SyntaxProblem("", "the file is empty", True)
            return
        builder = ObjectBuilder()
        position = buffer.skip_space(position + 1)
        number = 0
        while buffer.text[position : position + 1] != "]":
            number += 1
            decoded = decode_element(buffer, builder, position)
            if isinstance(decoded, str):
                yield SyntaxProblem(f" row {number}", decoded, True)
                return
            value, end = decoded
            yield RawRow(number, value, builder.take_problems())
            position = buffer.skip_space(end)
            if buffer.text[position : position + 1] == ",":
                position = buffer.skip_space(position + 1)
            elif buffer.text[position : position + 1] != "]":
                yield SyntaxProblem(
                    f" after row {number}", f"is not JSON at byte {buffer.byte_at(position)}: expected ',' or ']'", True
                )
                return
            if position > READ_BYTES:
                buffer.drop(position)
                position = 0
        end = buffer.skip_space(position + 1)
        if end < len(buffer.text):
            yield SyntaxProblem("", f"is not JSON at byte {buffer.byte_at(end)}: text after the closing ']'", True)


def decode_element(buffer: JsonBuffer, builder: ObjectBuilder, position: int) -> tuple[Any, int] | str:
    """(value, end position), or what is wrong. Reads on while the element may only be cut by the window."""
    while True:
        try:
            value, end = builder.decoder.raw_decode(buffer.text, position)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(buffer.text) - 16 or error.msg.startswith("Unterminated string")
            if not cut or buffer.ended:
                return f"is not JSON at byte {buffer.byte_at(error.pos)}: {error.msg}"
        except RecursionError:
            return "is nested too deeply"
        except ValueError:
            return HUGE_NUMBER
        else:
            if end - position > MAX_ROW_BYTES:
                return too_large()
            # A bare number near the window's edge could go on in the next block.
            number = isinstance(value, int | float)
            if end + (NUMBER_CHARACTERS if number else 0) < len(buffer.text) or buffer.ended:
                return value, end
        builder.take_problems()
        if len(buffer.text) - position > MAX_ROW_BYTES:
            return too_large()
        buffer.grow()


class RowLines:
    """The lines of a CSV file; `left` is how many characters the row that is being read may still take."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.left = MAX_ROW_BYTES

    def __iter__(self) -> RowLines:
        return self

    def __next__(self) -> str:
        line = self.stream.readline(self.left + 1)
        if not line:
            raise StopIteration
        self.left -= len(line)
        if self.left < 0:
            raise csv.Error(f"the row {too_large()}; often a quote is not closed")
        return line


class CsvRows:
    """The rows of a CSV file as lists of cells; a cell may be as large as a row.

    The csv module has one limit for all readers of the process, so it is raised only while a row is read.
    """

    def __init__(self, lines: RowLines) -> None:
        self.lines = lines
        self.reader = csv.reader(lines, strict=True)

    def __iter__(self) -> CsvRows:
        return self

    def __next__(self) -> list[str]:
        self.lines.left = MAX_ROW_BYTES
        limit = csv.field_size_limit(MAX_ROW_BYTES)
        try:
            return next(self.reader)
        finally:
            csv.field_size_limit(limit)


def header_problem(names: list[str]) -> str | None:
    if len(names) > MAX_COLUMNS:
        return f"the header has {len(names)} columns; at most {MAX_COLUMNS} are allowed"
    # Spreadsheets leave columns without a name.
    twice = [name for name, times in Counter(names).items() if times > 1 and name]
    return f"column '{readable(twice[0])}' is given more than once in the header" if twice else None


def read_csv(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    number = 0
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = CsvRows(RowLines(stream))
        try:
            names = next(rows, [])
            if problem := header_problem(names):
                yield SyntaxProblem("", problem, True)
                return
            for cells in rows:
                if not cells:
                    continue
                number += 1
                extra = len(cells) - len(names)
                row = dict(zip(names, [*cells, *[None] * -extra], strict=False))
                yield RawRow(number, row, (f"has {extra} more cell(s) than the header",) if extra > 0 else ())
        except csv.Error as error:
            yield SyntaxProblem(f" row {number + 1}", f"is not CSV (line {rows.reader.line_num}): {error}", True)


def read_parquet(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    import pyarrow.parquet

    number = 0
    with path.open("rb") as stream:
        try:
            file = pyarrow.parquet.ParquetFile(stream)
            if problem := header_problem(file.schema_arrow.names):
                yield SyntaxProblem("", problem, True)
                return
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for row in rows_of_batch(batch):
                    number += 1
                    yield RawRow(number, row) if isinstance(row, dict) else SyntaxProblem(f" row {number}", row, False)
        except UnicodeDecodeError:
            raise
        except Exception as error:  # a damaged file may make the library raise anything
            what = readable((str(error).strip() or type(error).__name__).splitlines()[0], 200)
            yield SyntaxProblem(f" after row {number}", f"is not parquet: {what}", True)


def rows_of_batch(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of an arrow batch, or what is wrong with one."""
    if batch.nbytes <= MAX_ROW_BYTES:
        yield from batch.to_pylist()
        return
    for row in (batch.slice(i, 1) for i in range(len(batch))):
        yield from row.to_pylist() if row.nbytes <= MAX_ROW_BYTES else [too_large()]


READERS: dict[str, Callable[[Path], Iterator[RawRow | SyntaxProblem]]] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
