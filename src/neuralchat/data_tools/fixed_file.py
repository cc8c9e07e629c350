"""--fix: files of records -> one cleaned file, and a log from which what was given can be made again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuralchat.data.record_files import RawRow, SyntaxProblem
from neuralchat.data.record_source import RecordSource
from neuralchat.data.records import Columns, records_of_rows
from neuralchat.data_tools.checking.findings import STRUCTURE_CHECK, FoundInReading, RowFindings
from neuralchat.data_tools.checking.record_table import Looked
from neuralchat.data_tools.checking.row_blocks import RowBlock, row_blocks
from neuralchat.data_tools.fixes import FIXES, text_places, with_text
from neuralchat.data_tools.moving.new_outputs import placed_outputs
from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.files import new_file
from neuralchat.runs.directory import is_plain
from neuralchat.runs.output_files import file_problems, real_place

FIXED_ENDING = ".jsonl"
LOG_ENDING = ".changes.jsonl"


def log_of(output: str) -> Path:
    """
    >>> log_of("out/clean.jsonl").name
    'clean.changes.jsonl'
    """
    return Path(output.removesuffix(FIXED_ENDING) + LOG_ENDING)


def check_fixed_output(output: str, source: RecordSource, others: Sequence[tuple[str, str | None]] = ()) -> None:
    """Raise ArgumentsError with all that keeps the file and its log from being written. `others`: (flag, name) of other
    files that the command writes.
    """
    problems = check_names(output, others)
    kinds = {record.source.rpartition(" row ")[0]: record.kind for record in source.first_records()}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        problems.append(f"--fix: one file holds one kind of records ({listed}); clean each kind by itself")
    if problems:
        raise ArgumentsError(problem_list("the cleaned file cannot be written:", problems))


def check_names(output: str, others: Sequence[tuple[str, str | None]] = ()) -> list[str]:
    """What is wrong with the names of the file and its log."""
    problems = []
    if not is_plain(output):
        return ["--fix: the name is not UTF-8, or too long"]
    if not output.endswith(FIXED_ENDING) or output.endswith(LOG_ENDING):
        problems.append(
            f"--fix {output}: a {FIXED_ENDING} file is written; found '{Path(output).suffix or Path(output).name}'"
        )
    for path in (Path(output), log_of(output)):
        problems += file_problems("--fix", str(path))
        problems += [
            f"--fix writes {path}, and {flag} names it too; give each its own"
            for flag, name in others
            if name is not None and real_place(Path(name)) == real_place(path)
        ]
    return problems


@dataclass
class Changes:
    """How much was changed: rows given and kept, and of each check how many texts, or rows left out."""

    rows: int = 0
    kept: int = 0
    texts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def told(self) -> str:
        changed = [f"{count:,} {name}" for name, count in self.texts.most_common()]
        left_out = [f"{count:,} {name}" for name, count in self.left_out.most_common()]
        return (
            f"{self.kept:,} of {self.rows:,} rows; texts changed: {', '.join(changed) or 'none'}; "
            f"rows left out: {', '.join(left_out) or 'none'}"
        )


def write_fixed(output: str, source: RecordSource, looked: Looked) -> Changes:
    """Write the rows of `source` with what FIXES can mend, without bad rows and those that can go."""
    changes = Changes()
    spare = {
        record - looked.held_out: check for check, records in looked.dispensable.items() for record in records.tolist()
    }
    # The log first: no cleaned file stands without it.
    with (
        placed_outputs([str(log_of(output)), output]) as (log_path, rows_path),
        new_file(rows_path) as rows_file,
        new_file(log_path) as log_file,
    ):
        for row, value, entries in fixed_rows(source, spare):
            changes.rows += 1
            for entry in entries:
                is_whole = "path" not in entry
                (changes.left_out if is_whole else changes.texts)[entry["check"]] += 1
                log_file.write(line_of({**row, "at": changes.kept + 1, **entry}))
            if value is not None:
                changes.kept += 1
                rows_file.write(line_of(value))
    return changes


def line_of(value: Any) -> bytes:
    """A line of JSON; what JSON has no type for, such as dates of a table, as text."""
    try:
        return (json.dumps(value, ensure_ascii=False, default=str) + "\n").encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which only bad rows have.
        return (json.dumps(value, default=str) + "\n").encode()


def fixed_rows(
    source: RecordSource, spare: Mapping[int, str]
) -> Iterator[tuple[dict[str, Any], Any, list[dict[str, Any]]]]:
    """(where a row stood, what is written of it or None, what the log says); `spare`: records to leave out, and why."""
    fields = {column: name for name, column in Columns(source.columns).columns.items()}
    number = 0
    for block in row_blocks(source):
        rows = list(block.rows())
        good = good_rows(block, rows, source.columns)
        for row in rows:
            where: dict[str, Any] = {"file": block.name, "row": row.number if isinstance(row, RawRow) else row.row}
            if not isinstance(row, RawRow):
                yield where, None, [{"check": STRUCTURE_CHECK.name, "why": row.what, "before": None}]
            elif row.number not in good:
                yield where, None, [{"check": STRUCTURE_CHECK.name, "before": row.value}]
            else:
                number += 1
                if number - 1 in spare:
                    yield where, None, [{"check": spare[number - 1], "before": row.value}]
                else:
                    yield where, *fixed(row.value, fields)


def good_rows(block: RowBlock, rows: list[RawRow | SyntaxProblem], columns: tuple[str, ...]) -> set[int]:
    report = FoundInReading(RowFindings())
    records = records_of_rows(block.name, iter(rows), report, Columns(columns), block.kind)
    return {int(record.source.rpartition(" ")[2]) for record in records}


def fixed(value: Any, fields: Mapping[str, str]) -> tuple[Any, list[dict[str, Any]]]:
    """A row as it should be, and what was changed, one text by one check at a time."""
    entries = []
    for path, kind, text in list(text_places(value, fields)):
        before = text
        for fix in FIXES:
            after = fix.fix(before) if kind in fix.kinds else before
            # A context may be empty, nothing else.
            if after != before and (after.strip() or kind == "context"):
                entries.append({"check": fix.name, "path": list(path), "before": before, "after": after})
                before = after
        if before != text:
            value = with_text(value, path, before)
    return value, entries


def restored(rows: Iterable[Any], log: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    """The rows that were given, from a cleaned file and its log; None for what was no JSON, which no log can hold."""
    entries = iter(log)
    entry = next(entries, None)
    for number, value in enumerate(rows, start=1):
        changed = []
        while entry is not None and entry["at"] == number:
            if "path" in entry:
                changed.append(entry)
            else:
                yield entry["before"]
            entry = next(entries, None)
        for change in reversed(changed):
            value = with_text(value, tuple(change["path"]), change["before"])
        yield value
    while entry is not None:
        yield entry["before"]
        entry = next(entries, None)
