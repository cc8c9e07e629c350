"""files -> Record: every source becomes one record type at the door, and every problem is told together.

Files are streamed: memory does not grow with their size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from neuralchat.config.arguments import RECORD_FIELDS
from neuralchat.data.record_files import RawRow, SyntaxProblem, read_rows
from neuralchat.data.records.columns import Columns
from neuralchat.data.records.kinds import RecordKind, recognise, record_of
from neuralchat.data.records.record import Record
from neuralchat.data.records.report import RecordReport
from neuralchat.data.records.values import Findings

NO_COLUMNS = Columns()


def read_records(paths: Sequence[str | Path], report: RecordReport, columns: Columns = NO_COLUMNS) -> Iterator[Record]:
    """Yield the good records of all files in order; problems are added to `report`."""
    fields = {*RECORD_FIELDS, *columns.columns.values()}
    for path in paths:
        yield from records_of_rows(str(path), read_rows(Path(path), fields), report, columns)


def records_of_rows(
    name: str, rows: Iterator[RawRow | SyntaxProblem], report: RecordReport, columns: Columns = NO_COLUMNS
) -> Iterator[Record]:
    """Turn raw rows into records. `name` is the file (or data set) that messages quote."""
    kind: RecordKind | None = None
    rows_seen = 0
    for row in rows:
        if isinstance(row, SyntaxProblem):
            report.add(name, row.row, row.what)
            report.fatal |= row.fatal
            report.bad_rows += 1
            continue
        rows_seen += 1
        value = columns.renamed(row.value)
        found = recognise(value, kind)
        kind = kind or found
        findings = Findings(list(row.problems))
        record = None
        if found is not None and found is not kind:
            findings.problem(
                f"is a {found.name} record, but the file began with {kind.name} records; use one kind a file"
                if kind
                else None
            )
        else:
            record = record_of(value, found, f"{name} row {row.number}", findings)
        if record is None:
            report.add_row(name, row.number, findings.problems)
            report.unrecognised |= found is None or any(" is missing; found " in what for what in findings.problems)
            report.bad_rows += 1
            continue
        report.good += 1
        report.kinds.setdefault(name, record.kind)
        report.ignore(findings.unused)
        yield record
    if rows_seen == 0 and not report.fatal and not report.bad_rows:
        report.add(name, None, "the file holds no record")
        report.fatal = True
