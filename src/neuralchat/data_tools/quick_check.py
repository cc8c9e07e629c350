"""The cheap part of `data check`, at the head of a fine-tuning: no model, no near duplicates, and bounded in time."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from neuralchat.data.record_source import RecordSource
from neuralchat.data.records import RecordReport
from neuralchat.data_tools.checking.between_records import look_between
from neuralchat.data_tools.checking.block_checks import BlockChecks, BlockFound, look_at_block, looked_at_in_turn
from neuralchat.data_tools.checking.findings import SEVERITIES, RowFindings
from neuralchat.data_tools.checking.record_table import RecordTable
from neuralchat.data_tools.checking.row_blocks import row_blocks

# Of computing. A start takes about ten, of which this is a few per cent.
MOST_SECONDS = 0.25
# The time is looked at after so many.
QUICK_ROWS = 250
# Of each check, in the report of the run.
ROWS_TOLD = 3
# More of them are not named in one line.
FILES_NAMED = 4


def quick_findings(training: RecordSource, held_out: RecordSource, seconds: float = MOST_SECONDS) -> dict[str, Any]:
    """What the first records show in so many seconds, as JSON; `is_whole`: they are all.

    Those held out are read first, since what is trained on must not be among them; they may take half of the time.
    """
    start = time.thread_time()
    findings, table, read = RowFindings(), RecordTable(), RecordReport()
    known = Until(looked_at(held_out, is_held_out=True), start + seconds / 2)
    for block in known:
        table.add(block.name, block.marks)
    held_out_count = table.count
    blocks = Until(looked_at(training, is_held_out=False), start + seconds)
    for block in blocks:
        findings.take(block.findings)
        read.take(block.read)
        table.add(block.name, block.marks)
    if table.count > held_out_count:
        look_between(table, held_out_count, findings, near=False)
    return {
        "records": read.good,
        "is_whole": blocks.is_whole and known.is_whole,
        "counts": {severity: findings.count(severity) for severity in SEVERITIES},
        "checks": [{**check, "rows": check["rows"][:ROWS_TOLD]} for check in findings.as_json()],
        "command": check_command(training, held_out),
    }


def looked_at(source: RecordSource, *, is_held_out: bool) -> Iterator[BlockFound]:
    """The blocks of a source; of the last as many records as are used of it."""
    look = partial(look_at_block, BlockChecks(source.columns, near=False), held_out=is_held_out)
    blocks = [] if source.is_empty else row_blocks(source, rows=QUICK_ROWS, stretches=False)
    return looked_at_in_turn(look, blocks, source.limit)


class Until:
    """The entries of an iterator until this thread has computed for so long (time.thread_time); one in any case."""

    def __init__(self, entries: Iterator[Any], end: float) -> None:
        self.entries = entries
        self.end = end
        self.is_whole = False

    def __iter__(self) -> Iterator[Any]:
        for entry in self.entries:
            yield entry
            if time.thread_time() > self.end:
                # Nothing, where that was the last.
                self.is_whole = next(self.entries, None) is None
                return
        self.is_whole = True


def check_command(training: RecordSource, held_out: RecordSource) -> str:
    """What looks at the same files thoroughly; empty for records that are no files."""
    if not training.files:
        return ""
    if len(training.files) + len(held_out.files) > FILES_NAMED:
        return "neuralchat data check FILES"
    words = ["neuralchat", "data", "check", *training.files]
    words += ["--validation_file", *held_out.files] if held_out.files else []
    words += ["--columns", ",".join(training.columns)] if training.columns else []
    return shlex.join(words)


def told_findings_line(found: Mapping[str, Any]) -> str:
    """
    >>> counts = {"error": 1, "warning": 0, "note": 2}
    >>> told_findings_line({"records": 1200, "is_whole": False, "counts": counts, "command": ""})
    'a quick look at the first 1,200 records found 1 error, 2 notes; report.html lists some'
    """
    many = f"{'' if found['is_whole'] else 'the first '}{found['records']:,} records"
    counts = [f"{n:,} {name}{'s' if n > 1 else ''}" for name, n in found["counts"].items() if n]
    if not counts:
        return f"a quick look at {many} found nothing wrong"
    more = f", {found['command']} all" if found["command"] else ""
    return f"a quick look at {many} found {', '.join(counts)}; report.html lists some{more}"
