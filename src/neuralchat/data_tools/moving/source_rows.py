"""Files -> rows as they stand there, each with the record that finetune's reader makes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from neuralchat.config.arguments import RECORD_FIELDS
from neuralchat.console import note
from neuralchat.data.record_files import RawRow, read_rows, readable
from neuralchat.data.record_files.packed import inner_ending
from neuralchat.data.record_files.rows import Rows
from neuralchat.data.record_source import RecordSource
from neuralchat.data.records import Columns, Record, RecordReport, Turn, records_of_rows
from neuralchat.data.records.reading import as_object
from neuralchat.data_tools.moving.table_layout import from_table
from neuralchat.errors import DataError, problem_list

KINDS_SHOWN = 8
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")


class ReadRow(NamedTuple):
    """`value`: the fields of a row. `unused`: names of those that are no part of the record, `messages[].id` too."""

    value: dict[str, Any]
    record: Record
    unused: tuple[str, ...]
    file: int
    row: int


class RowReport(RecordReport):
    """Keeps the names of the fields that the last row has and its record does not use."""

    __slots__ = ("last_unused",)

    def __init__(self) -> None:
        super().__init__()
        self.last_unused: tuple[str, ...] = ()

    def ignore(self, names: Iterable[str]) -> None:
        self.last_unused = tuple(names)


class LastRow:
    """Rows on their way to a reader; `last` is the one that it has just been given."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.last: RawRow | None = None

    def __iter__(self) -> Rows:
        for row in self.rows:
            if isinstance(row, RawRow):
                self.last = row
            yield row


@dataclass(frozen=True)
class SourceRows:
    """Files of records, to be read as often as it takes. `columns`: what --columns says.

    `as_rows` turns what stands in a file, whose name it is given, into rows of records; `fields` are the names by which
    such rows are known. `renamed`: fields get the names that --columns gives them.
    """

    files: tuple[str, ...]
    columns: tuple[str, ...] = ()
    as_rows: Callable[[str, Rows], Rows] | None = None
    fields: tuple[str, ...] = ()
    renamed: bool = False

    def check(self) -> list[str]:
        return RecordSource(files=self.files, columns=self.columns).check()

    def read(self, report: RowReport) -> Iterator[ReadRow]:
        """The rows that are good records, in order; problems are added to `report`."""
        columns = Columns(self.columns)
        fields = {*RECORD_FIELDS, *self.fields, *columns.columns.values()}
        for number, name in enumerate(self.files):
            raw = read_rows(Path(name), fields)
            table = Path(name).is_dir() or inner_ending(Path(name)) not in JSON_ENDINGS
            rows = LastRow(raw if self.as_rows is None else self.as_rows(name, raw))
            for record in records_of_rows(name, iter(rows), report, columns):
                assert rows.last is not None
                value = as_object(rows.last.value)
                named = columns.renamed(value) if self.renamed else value
                named = from_table(named) if table else named
                yield ReadRow(named, record, report.last_unused, number, rows.last.number)
        for flag, problem in columns.missing():
            report.add(flag, None, problem)
            report.fatal = True

    def again(self) -> Iterator[ReadRow]:
        """The same rows, whose problems have been told."""
        return self.read(RowReport())


def checked_source(source: SourceRows) -> SourceRows:
    """Raises DataError with all that is wrong with its files."""
    if problems := source.check():
        raise DataError(problem_list("the record files cannot be used:", problems))
    return source


def settle_reading(report: RecordReport, on_bad_record: str) -> None:
    """Raises DataError for bad rows, or tells that they are left out."""
    if notice := report.settle(on_bad_record):
        note(notice)


def only_kind(report: RecordReport) -> str:
    """The kind of the records of all files. Raises DataError where there are several."""
    kinds = sorted(set(report.kinds.values()))
    if len(kinds) > 1:
        listed = [f"{name} {kind}" for name, kind in report.kinds.items()][:KINDS_SHOWN]
        raise DataError(
            f"the files hold records of several kinds ({', '.join(listed)}), and a file holds one; make them one "
            "first: neuralchat data convert FILES --to messages --output FILE.jsonl"
        )
    return kinds[0]


def extra_fields(row: ReadRow) -> dict[str, Any]:
    """The fields of a row that are no part of its record."""
    unused = set(row.unused)
    return {str(name): held for name, held in row.value.items() if readable(str(name)) in unused}


def nested_unused(row: ReadRow) -> list[str]:
    """Keys within turns that the record does not keep."""
    names = {readable(str(name)) for name in row.value}
    return [name for name in row.unused if name not in names]


def conversation_digest(record: Record) -> bytes:
    """8 bytes of what a record is to training: its turns, tools and facts."""
    said = [[turn_key(turn) for turn in record.turns], list(record.tools), list(record.facts), record.kind == "text"]
    text = json.dumps(said, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest()


def turn_key(turn: Turn) -> list[Any]:
    # Only an answer is learned or not.
    trained = turn.trained or turn.role != "assistant"
    calls = list(turn.tool_calls)
    return [turn.role, turn.content, turn.context, trained, turn.reasoning, calls, dict(turn.extra)]


def field_text(value: Mapping[str, Any], name: str) -> str | None:
    """What a field holds, as a text that tells values apart; None where the row has no such field."""
    if name not in value:
        return None
    held = value[name]
    return str(held) if isinstance(held, str) else json.dumps(held, sort_keys=True, default=str)
