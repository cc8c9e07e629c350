"""bytes on disk -> raw rows, streamed: a JSON array, JSON lines, CSV or parquet."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralchat.errors import DataError

READ_BYTES = 1 << 20
MAX_ROW_BYTES = 64 << 20
NUMBER_CHARACTERS = 400
WHITESPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A parsed row, numbered from 1, and what parsing itself noticed (such as a key given twice)."""

    number: int
    value: Any
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SyntaxProblem:
    """A place that is not well formed. `fatal`: nothing after it can be read."""

    where: str
    what: str
    fatal: bool


def read_rows(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    """Stream the rows of a file by its ending. Raises DataError for an ending that is not known."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: records may be {', '.join(READERS)} files, found '{path.suffix or path.name}'")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        yield SyntaxProblem("", f"is not UTF-8: byte {byte} cannot be decoded; save the file as UTF-8", True)
    except OSError as error:
        yield SyntaxProblem("", f"cannot be read: {error.strerror or error}", True)


class ObjectBuilder:
    """Collects keys that occur twice in one object while the JSON decoder builds it."""

    def __init__(self) -> None:
        self.repeated: list[str] = []
        self.decoder = json.JSONDecoder(object_pairs_hook=self.build)

    def build(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            keys = [key for key, _ in pairs]
            self.repeated.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return built

    def take_problems(self) -> tuple[str, ...]:
        problems = tuple(f"field '{key}' is given more than once" for key in self.repeated)
        self.repeated.clear()
        return problems


def read_json(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    """A JSON array of objects, or, when the file starts otherwise, JSON lines."""
    with path.open("rb") as stream:
        head = stream.read(READ_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    if head[:1] in (b"[", b""):
        yield from read_json_array(path)
    else:
        yield from read_json_lines(path)


def read_json_lines(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    builder = ObjectBuilder()
    number = offset = 0
    with path.open("rb") as stream:
        while line := stream.readline(MAX_ROW_BYTES):
            mark = len(codecs.BOM_UTF8) if offset == 0 and line.startswith(codecs.BOM_UTF8) else 0
            text = line[mark:].decode("utf-8")
            if text.strip():
                number += 1
                try:
                    value = builder.decoder.decode(text)
                except json.JSONDecodeError as error:
                    byte = offset + mark + len(text[: error.pos].encode())
                    yield SyntaxProblem(f" row {number}", f"is not JSON at byte {byte}: {error.msg}", False)
                except RecursionError:
                    yield SyntaxProblem(f" row {number}", "is nested too deeply", False)
                else:
                    yield RawRow(number, value, builder.take_problems())
                builder.take_problems()
            offset += len(line)


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
        else:
            # A bare number near the window's edge could go on in the next block.
            number = isinstance(value, int | float)
            if end + (NUMBER_CHARACTERS if number else 0) < len(buffer.text) or buffer.ended:
                return value, end
        builder.take_problems()
        if len(buffer.text) - position > MAX_ROW_BYTES:
            return f"is larger than {MAX_ROW_BYTES >> 20} MiB"
        buffer.grow()


def read_csv(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    csv.field_size_limit(MAX_ROW_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        number = 0
        try:
            for number, row in enumerate(reader, start=1):
                extra = row.pop(None, None)
                too_many = (f"has {len(extra)} more cell(s) than the header",) if extra else ()
                yield RawRow(number, row, too_many)
        except csv.Error as error:
            yield SyntaxProblem(f" row {number + 1}", f"is not CSV (line {reader.reader.line_num}): {error}", True)


def read_parquet(path: Path) -> Iterator[RawRow | SyntaxProblem]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield RawRow(number, value)
    except pyarrow.ArrowException as error:
        yield SyntaxProblem(f" after row {number}", f"is not parquet: {error}", True)


READERS: dict[str, Callable[[Path], Iterator[RawRow | SyntaxProblem]]] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
