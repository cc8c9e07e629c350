"""`neuralchat data check`: files -> what is wrong with which rows."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

from neuralchat.console import put, show_page
from neuralchat.console.tables import Page, Table
from neuralchat.data.record_source import RecordSource
from neuralchat.data.records import Columns, RecordReport
from neuralchat.data_tools.checking.between_records import look_between
from neuralchat.data_tools.checking.block_checks import BlockChecks, BlockFound, look_at_block, looked_at_in_turn
from neuralchat.data_tools.checking.block_workers import process_count, results_in_order
from neuralchat.data_tools.checking.findings import SEVERITIES, FoundInReading, RowFindings
from neuralchat.data_tools.checking.page import render_check
from neuralchat.data_tools.checking.record_checks import RECORD_CHECKS
from neuralchat.data_tools.checking.record_table import Looked, RecordMarks, RecordTable
from neuralchat.data_tools.checking.row_blocks import row_blocks
from neuralchat.data_tools.checking.token_checks import TokenChecks, token_checks
from neuralchat.data_tools.fixed_file import check_fixed_output, log_of, write_fixed
from neuralchat.errors import DataError, Problems, problem_list
from neuralchat.runs.output_files import (
    ReportKind,
    check_output_files,
    inputs_of_records,
    json_report,
    page_report,
    write_reports,
)

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
    check_outputs(options, training)
    tokens = token_checks(options) if options.model_name_or_path else None
    findings, read, held_out_read = RowFindings(), RecordReport(), RecordReport()
    processes = options.processes or process_count()
    near = not options.no_near
    looked = look_through(
        training, held_out, read, held_out_read, findings, near=near, tokens=tokens, processes=processes
    )
    show_page(Page(told_findings(options.files, read, findings)))
    if read.unrecognised or held_out_read.unrecognised:
        put((read if read.unrecognised else held_out_read).column_advice())
    if options.fix:
        changes = write_fixed(options.fix, training, looked)
        put(f"cleaned: {options.fix}: {changes.told()}\nlog: {log_of(options.fix)}")
    write_reports(
        [
            ("--report", options.report, lambda: json_report(report_of(options.files, read, findings))),
            ("--page", options.page, lambda: page_report(render_check(options.files, read, findings, looked))),
        ]
    )
    for what, name in (("report", options.report), ("page", options.page)):
        if name:
            put(f"{what}: {name}")
    return status_of_check(findings, options.fail_on)


def check_outputs(options: argparse.Namespace, training: RecordSource) -> None:
    """Raises ArgumentsError with all that is wrong with the files to be written."""
    inputs = inputs_of_records(options.files, options.validation_file, options.model_name_or_path)
    reports = [("--report", options.report, ReportKind.JSON), ("--page", options.page, ReportKind.PAGE)]
    problems = Problems()
    with problems.noted():
        check_output_files(reports, inputs)
    if options.fix:
        with problems.noted():
            check_fixed_output(options.fix, training, [(flag, name) for flag, name, _ in reports])
    problems.settle("these files cannot be written:")


def look_through(
    training: RecordSource,
    held_out: RecordSource,
    read: RecordReport,
    held_out_read: RecordReport,
    findings: RowFindings,
    *,
    near: bool = True,
    tokens: TokenChecks | None = None,
    processes: int = 1,
) -> Looked:
    """Add to `findings` all that the records of `training` show; the result is the same for all `processes`."""
    table = RecordTable()
    for found in found_in_blocks(held_out, held_out_read, near=near, held_out=True, processes=processes):
        findings.take(found.findings)
        table.add(found.name, found.marks)
    known = table.count
    for found in found_in_blocks(training, read, near=near, held_out=False, processes=processes):
        findings.take(found.findings)
        table.add(found.name, found.marks)
    if tokens is not None:
        for record in training.records(RecordReport()):
            tokens.look_at(record, findings)
        tokens.finish(findings)
    dispensable = look_between(table, known, findings, near=near) if table.count > known else {}
    return Looked(table, known, dispensable)


def found_in_blocks(
    source: RecordSource, read: RecordReport, *, near: bool, held_out: bool, processes: int
) -> Iterator[BlockFound]:
    """What each block of a source shows, in order; what reading found is added to `read`."""
    if source.is_empty:
        return
    look = partial(look_at_block, BlockChecks(source.columns, near=near), held_out=held_out)
    columns = Columns(source.columns)
    blocks = row_blocks(source)
    in_turn = None if source.limit is None else looked_at_in_turn(look, blocks, source.limit)
    for found in in_turn or results_in_order(look, blocks, processes):
        read.take(found.read)
        columns.take(found.columns)
        yield found
    if not held_out or columns.seen:
        missing = FoundInReading(RowFindings())
        for flag, problem in columns.missing():
            missing.add(flag, None, problem)
            missing.fatal = True
        read.take(missing)
        yield BlockFound("", missing.findings, missing, Columns(), RecordMarks.of([], near=False))


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
