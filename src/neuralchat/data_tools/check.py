"""`neuralchat data check`: files -> what is wrong with which rows."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from neuralchat.console import put, show_page
from neuralchat.console.tables import Page, Table
from neuralchat.data.record_source import RecordSource
from neuralchat.data.records import Record, RecordReport
from neuralchat.data_tools.between_records import RecordsSoFar
from neuralchat.data_tools.findings import SEVERITIES, FoundInReading, Place, RowFindings, place_of_source
from neuralchat.data_tools.record_checks import RECORD_CHECKS
from neuralchat.data_tools.record_text import RecordText, record_text
from neuralchat.data_tools.token_checks import TokenChecks, token_checks
from neuralchat.errors import DataError, problem_list
from neuralchat.files import write_file

EXIT_FOUND = 1
NEVER = "never"
ROWS_SHOWN = 8
EXAMPLES_SHOWN = 2


def check_data(options: argparse.Namespace) -> int:
    """The exit status: 1 where something of the severity of --fail_on was found."""
    columns = tuple(options.columns)
    training = RecordSource(files=tuple(options.files), columns=columns)
    held_out = RecordSource(files=tuple(options.validation_file), columns=columns, trained=False, held_out=True)
    if problems := [*training.check(), *held_out.check()]:
        raise DataError(problem_list("the record files cannot be used:", problems))
    tokens = token_checks(options) if options.model_name_or_path else None
    findings, reading = RowFindings(), RecordReport()
    read = FoundInReading(findings)
    look_through(training, held_out, read, reading, findings, near=not options.no_near, tokens=tokens)
    show_page(Page(told_findings(options.files, read, findings)))
    if options.report:
        write_file(Path(options.report), json.dumps(report_of(options.files, read, findings), indent=1) + "\n")
        put(f"report: {options.report}")
    return status_of_check(findings, options.fail_on)


def look_through(
    training: RecordSource,
    held_out: RecordSource,
    read: RecordReport,
    held_out_read: RecordReport,
    findings: RowFindings,
    *,
    near: bool = True,
    tokens: TokenChecks | None = None,
) -> None:
    """Add to `findings` all that the records of `training` show, one after another."""
    so_far = RecordsSoFar(findings, near=near)
    for _, text, place in record_texts(held_out, held_out_read):
        so_far.hold_out(text, place)
    for record, text, place in record_texts(training, read):
        for check in RECORD_CHECKS:
            seen = check.find(text)
            if seen is not None:
                findings.add(check.about, place, seen)
        so_far.look_at(text, place)
        if tokens is not None:
            tokens.look_at(record, findings)
    if tokens is not None:
        tokens.finish(findings)
    if read.good:
        so_far.finish()


def record_texts(source: RecordSource, report: RecordReport) -> Iterator[tuple[Record, RecordText, Place]]:
    if source.is_empty:
        return
    for record in source.records(report):
        yield record, record_text(record), place_of_source(record.source)


def status_of_check(findings: RowFindings, fail_on: str) -> int:
    if fail_on == NEVER:
        return 0
    heeded = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    return EXIT_FOUND if any(map(findings.count, heeded)) else 0


def told_findings(files: Sequence[str], read: RecordReport, findings: RowFindings) -> list[str | Table]:
    """A table of the checks that found something, then the first findings of each."""
    counts = ", ".join(f"{findings.count(severity):,} {severity}(s)" for severity in SEVERITIES)
    head = f"{read.good:,} records of {len(files)} file(s), {read.bad_rows:,} bad rows: {counts}"
    if not findings.found:
        return [head, f"nothing found by {len(RECORD_CHECKS)} checks of records and those between them"]
    rows = []
    examples = []
    for check, found in findings.ordered():
        numbers = [str(place.row) for place, _ in found.examples[:ROWS_SHOWN] if place.row is not None]
        more = ", ..." if found.count > ROWS_SHOWN else ""
        rows.append((check.severity, check.name, f"{found.count:,}", ", ".join(numbers) + more))
        examples += [f"{check.name} ({found.count:,}): {check.advice}"]
        examples += [f"  {place}: {seen}" for place, seen in found.examples[:EXAMPLES_SHOWN]]
    marked = [index for index, row in enumerate(rows) if row[0] == "error"]
    return [head, "", Table(("severity", "check", "count", "rows"), rows, marked=marked), "", *examples]


def report_of(files: Sequence[str], read: RecordReport, findings: RowFindings) -> dict[str, object]:
    return {
        "files": list(files),
        "records": read.good,
        "bad_rows": read.bad_rows,
        "counts": {severity: findings.count(severity) for severity in SEVERITIES},
        "findings": findings.as_json(),
    }
