"""The cheap part of `data check`, at the head of a fine-tuning: no model, no near duplicates, and bounded in time."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

from neuralchat.data.record_source import RecordSource
from neuralchat.data.records import RecordReport
from neuralchat.data_tools.between_records import look_between
from neuralchat.data_tools.check import found_in_blocks
from neuralchat.data_tools.findings import SEVERITIES, RowFindings
from neuralchat.data_tools.record_table import RecordTable

# Of computing. A start takes about ten, of which this is a few per cent.
MOST_SECONDS = 0.25
# Small, so that the time is looked at often.
BLOCK_ROWS = 64
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
    is_whole = True
    for source, held, report, end in (
        (held_out, True, RecordReport(), start + seconds / 2),
        (training, False, read, start + seconds),
    ):
        known = table.count
        for found in found_in_blocks(source, report, near=False, held_out=held, processes=1, block_rows=BLOCK_ROWS):
            if time.thread_time() > end:
                is_whole = False
                break
            findings.take(found.findings)
            table.add(found.name, found.marks)
    if table.count > known:
        look_between(table, known, findings, near=False)
    return {
        "records": table.count - known,
        "is_whole": is_whole,
        "counts": {severity: findings.count(severity) for severity in SEVERITIES},
        "checks": [{**check, "rows": check["rows"][:ROWS_TOLD]} for check in findings.as_json()],
        "command": command_of(training, held_out),
    }


def command_of(training: RecordSource, held_out: RecordSource) -> str:
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
