"""Rows for one or several new files -> those files, read again before they get their names."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from neuralchat.console import note
from neuralchat.data.records import Record, RecordReport
from neuralchat.data_tools.moving.new_outputs import placed_outputs
from neuralchat.data_tools.moving.row_writers import RowWriter, is_table, open_writer
from neuralchat.data_tools.moving.source_rows import RowReport, SourceRows, conversation_digest
from neuralchat.data_tools.moving.table_layout import TableLayout
from neuralchat.errors import DataError, problem_list

DIFFERENT_SHOWN = 8


class RowToWrite(NamedTuple):
    """`value` goes to the file number `part`, and has to be read there as `record`."""

    part: int
    value: Mapping[str, Any]
    record: Record


@dataclass
class WrittenRows:
    """What a file was given: of each row what it says, in 8 bytes, and of which record it is."""

    digests: bytearray = field(default_factory=bytearray)
    rows: array[int] = field(default_factory=lambda: array("q"))

    def add(self, record: Record) -> None:
        self.digests += conversation_digest(record)
        self.rows.append(int(record.source.rpartition(" row ")[2]))


def write_rows(
    names: Sequence[str], rows: Callable[[], Iterator[RowToWrite]], *, columns: Sequence[str] = ()
) -> list[int]:
    """How many rows each new file has. `rows` is called once, or twice where a table has to know its columns first.

    `columns`: what --columns says of what is written. Raises DataError with all rows that a format cannot hold, and
    where a file would be read as something else than what it was given; no file is there then.
    """
    layouts = [TableLayout(typed=name.lower().endswith(".parquet")) for name in names]
    if any(map(is_table, names)):
        for row in rows():
            layouts[row.part].look_at(row.value)
    written = [WrittenRows() for _ in names]
    with placed_outputs(names) as works:
        with ExitStack() as stack:
            writers = [open_writer(work, layout, stack) for work, layout in zip(works, layouts, strict=True)]
            write_each(writers, rows(), written)
        for name, work, given in zip(names, works, written, strict=True):
            check_written(name, work, given, columns)
    for name, layout in zip(names, layouts, strict=True):
        if layout.json_names:
            note(f"{name}: these columns hold JSON text: {', '.join(sorted(layout.json_names))}")
    return [len(given.rows) for given in written]


def write_each(writers: Sequence[RowWriter], rows: Iterator[RowToWrite], written: Sequence[WrittenRows]) -> None:
    refused = RecordReport()
    for row in rows:
        try:
            writers[row.part].write(row.value)
        except (DataError, UnicodeEncodeError) as error:
            is_text = isinstance(error, UnicodeEncodeError)
            refused.refuse(
                row.record.source, "holds half of a surrogate pair, which is not text" if is_text else str(error)
            )
            continue
        written[row.part].add(row.record)
    if refused.problems:
        raise DataError(refused.listed("these rows cannot be written:"))
    for writer in writers:
        writer.finish()


def check_written(name: str, work: Path, given: WrittenRows, columns: Sequence[str]) -> None:
    """Raise DataError unless finetune's reader makes of a file what it was given."""
    report = RowReport()
    found = SourceRows((str(work),), tuple(columns)).read(report)
    digests = (bytes(given.digests[start : start + 8]) for start in range(0, len(given.digests), 8))
    different: list[str] = []
    for number, (wanted, row) in enumerate(zip_longest(digests, found)):
        if row is None or wanted != conversation_digest(row.record):
            source = f"row {given.rows[number]}" if number < len(given.rows) else "a row too many"
            different.append(f"{source} of what was given")
            if report.found or len(different) == DIFFERENT_SHOWN:
                break
    if different or report.found:
        problems = [problem.replace(str(work), name) for problem in report.problems]
        raise DataError(
            problem_list(f"{name} would not say what it was given, so it is not written:", problems or different)
            + "\nA .jsonl file holds every record; --to of neuralchat data convert says what the fields shall be."
        )
