"""Rows -> a file of records, by the ending of its name, packed or not. A table is told its columns before its rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from neuralchat.data.record_files.packed import GZIP, PACKED_ENDINGS, inner_ending
from neuralchat.data_tools.moving.table_layout import TableLayout, arrow_cell
from neuralchat.errors import DataError
from neuralchat.files import new_file

ROWS_OF_BATCH = 1000
LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


class RowWriter(ABC):
    """Writes rows to a stream. Raises DataError for a row that the format cannot hold."""

    def __init__(self, stream: BinaryIO, layout: TableLayout) -> None:
        self.stream = stream
        self.layout = layout

    @abstractmethod
    def write(self, row: Mapping[str, Any]) -> None: ...

    def finish(self) -> None:  # noqa: B027 (most formats have no end)
        """Write what stands after the last row."""


class JsonLines(RowWriter):
    def write(self, row: Mapping[str, Any]) -> None:
        self.stream.write(json_row(row) + b"\n")


class JsonArray(RowWriter):
    rows = 0

    def write(self, row: Mapping[str, Any]) -> None:
        self.stream.write((b",\n" if self.rows else b"[\n") + json_row(row))
        self.rows += 1

    def finish(self) -> None:
        self.stream.write(b"\n]\n" if self.rows else b"[]\n")


class CsvTable(RowWriter):
    """As RFC 4180 has it: a line ends with CR LF, so that a cell with either of them is quoted."""

    separator = ","

    def __init__(self, stream: BinaryIO, layout: TableLayout) -> None:
        super().__init__(stream, layout)
        self.text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        self.table = csv.writer(self.text, delimiter=self.separator, lineterminator="\r\n")
        self.table.writerow(layout.names)

    def write(self, row: Mapping[str, Any]) -> None:
        self.table.writerow([text_cell(row.get(name)) for name in self.layout.names])

    def finish(self) -> None:
        self.text.detach()


class TabTable(CsvTable):
    separator = "\t"


class ParquetTable(RowWriter):
    def __init__(self, stream: BinaryIO, layout: TableLayout) -> None:
        super().__init__(stream, layout)
        import pyarrow.parquet

        self.schema = layout.schema()
        self.file = pyarrow.parquet.ParquetWriter(KeptOpen(stream), self.schema)
        self.batch: list[dict[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        as_json = self.layout.json_names
        self.batch.append({name: arrow_cell(held, as_json=name in as_json) for name, held in row.items()})
        if len(self.batch) == ROWS_OF_BATCH:
            self.flush()

    def flush(self) -> None:
        import pyarrow

        self.file.write_table(pyarrow.Table.from_pylist(self.batch, schema=self.schema))
        self.batch.clear()

    def finish(self) -> None:
        if self.batch:
            self.flush()
        self.file.close()


WRITERS: Mapping[str, Callable[[BinaryIO, TableLayout], RowWriter]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".json": JsonArray,
    ".csv": CsvTable,
    ".tsv": TabTable,
    ".parquet": ParquetTable,
}
ROW_ENDINGS = tuple(WRITERS)
# Their columns stand before the rows.
TABLE_ENDINGS = (".csv", ".tsv", ".parquet")


def is_table(name: str) -> bool:
    return inner_ending(Path(name)) in TABLE_ENDINGS


def open_writer(path: Path, layout: TableLayout, stack: ExitStack) -> RowWriter:
    """A writer of a new file at `path`, which is closed with `stack`; its `finish` has to be called before."""
    stream: Any = stack.enter_context(new_file(path))
    packing = PACKED_ENDINGS.get(path.suffix.lower())
    if packing == GZIP:
        # Without a time, so that the same rows are the same file.
        stream = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0))
    elif packing is not None:
        import pyarrow

        packed = stack.enter_context(pyarrow.CompressedOutputStream(KeptOpen(stream), packing))
        stream = stack.enter_context(io.BufferedWriter(KeptOpen(packed)))
    return WRITERS[inner_ending(path)](stream, layout)


class KeptOpen(io.RawIOBase):
    """A stream that libraries may close as they like; `inner` stays open."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        self.inner.write(bytes(block))
        return len(block)


def json_row(row: Mapping[str, Any]) -> bytes:
    """
    >>> json_row({"text": "é", "score": float("nan")}).decode()
    '{"text": "é", "score": null}'
    """
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(without_nan(row), ensure_ascii=False)
    except TypeError:
        odd = {name: type(held).__name__ for name, held in row.items() if not is_json_value(held)}
        shown = ", ".join(f"'{name}' ({kind})" for name, kind in odd.items())
        raise DataError(f"holds what JSON cannot say, in {shown}; write a .parquet file") from None
    if not text.isascii():
        # Others may take them for the end of a line.
        text = text.translate(LINE_ENDS)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(without_nan(row)).encode()


def is_json_value(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def without_nan(value: Any) -> Any:
    """NaN, which tables have for nothing and JSON does not know, as null."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        raise DataError("holds an infinite number, which JSON cannot say; write a .parquet file")
    if isinstance(value, dict):
        return {name: without_nan(held) for name, held in value.items()}
    return [without_nan(held) for held in value] if isinstance(value, list) else value


def text_cell(value: Any) -> str:
    """
    >>> [text_cell(held) for held in (None, "a", 3, True, ["a"])]
    ['', 'a', '3', 'true', '["a"]']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else json_row({"": value})[5:-1].decode()
