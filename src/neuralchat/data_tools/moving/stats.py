"""`neuralchat data stats`: how many records, how long, with which turns, roles, fields and scripts."""

from __future__ import annotations

import argparse
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neuralchat.console import note, put, show_page
from neuralchat.console.tables import Figures, Page, Part, Table
from neuralchat.data.record_files import readable
from neuralchat.data.records import Record
from neuralchat.data.records.values import is_absent
from neuralchat.data.tokenization import Encoder
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.data_tools.checking.in_answers import script_of
from neuralchat.data_tools.checking.record_text import RecordText, record_text
from neuralchat.data_tools.moving.new_outputs import check_new_files
from neuralchat.data_tools.moving.source_rows import ReadRow, RowReport, SourceRows, checked_source, field_text
from neuralchat.runs.output_files import ReportKind, json_report, write_reports

QUANTILES = (0.05, 0.5, 0.95)
SCRIPT_LETTERS = 200
MOST_SHOWN = 12
# A field with more values than these is a text or an id, and its values are not counted.
MOST_VALUES = 30
MOST_FIELDS = 200
LONGEST_VALUE = 60
RECORDS_AT_ONCE = 100


def stats_of_data(options: argparse.Namespace) -> int:
    if options.report:
        check_new_files([("--report", options.report)], (".json",), options.files, replaces=ReportKind.JSON)
    source = checked_source(SourceRows(tuple(options.files), tuple(options.columns)))
    tokens = TokenLengths(token_counter(options)) if options.model_name_or_path else None
    report, found = RowReport(), Statistics()
    for row in source.read(report):
        found.add(row)
        if tokens is not None:
            tokens.add(row.record)
    if not report.good:
        report.settle("fail")
    if tokens is not None:
        tokens.finish(found)
    show_page(Page(told_statistics(found, report)))
    if report.problems:
        note(report.listed(f"{report.bad_rows:,} bad row(s) are not counted:"))
    if options.report:
        content = {"files": list(options.files), "bad_rows": report.bad_rows, **found.as_json(), "kinds": report.kinds}
        write_reports([("--report", options.report, lambda: json_report(content))])
        put(f"report: {options.report}")
    return 0


@dataclass
class FieldValues:
    """In how many rows a field holds something, and its values where they are few."""

    rows: int = 0
    values: Counter[str] | None = field(default_factory=Counter)

    def add(self, text: str) -> None:
        self.rows += 1
        if self.values is not None:
            self.values[text] += 1
            if len(text) > LONGEST_VALUE or len(self.values) > MOST_VALUES:
                self.values = None


@dataclass
class Statistics:
    """All that is counted. `lengths`: name of a length -> that of each record."""

    records: int = 0
    per_file: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    having: Counter[str] = field(default_factory=Counter)
    fields: dict[str, FieldValues] = field(default_factory=dict)
    lengths: dict[str, array[int]] = field(default_factory=dict)
    # Of a model's tokens: what it would cut, and what would be left out.
    cut: int = 0
    left_out: int = 0

    def add(self, row: ReadRow) -> None:
        record, text = row.record, record_text(row.record)
        self.records += 1
        self.per_file[row.file] += 1
        self.kinds[record.kind] += 1
        self.roles.update(turn.role for turn in record.turns)
        self.scripts[main_script(text.answer)] += 1
        self.having.update(name for name, has in HAVING.items() if has(record))
        for name, length in lengths_of(record, text).items():
            self.measure(name, length)
        for name, held in row.value.items():
            if not is_absent(held) and (name in self.fields or len(self.fields) < MOST_FIELDS):
                self.fields.setdefault(str(name), FieldValues()).add(field_text(row.value, name) or "")

    def measure(self, name: str, length: int) -> None:
        self.lengths.setdefault(name, array("q")).append(length)

    def as_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "roles": dict(self.roles),
            "having": dict(self.having),
            "scripts": dict(self.scripts),
            "lengths": {name: summary_of_lengths(np.asarray(held)) for name, held in self.lengths.items()},
            "fields": {
                name: {"rows": held.rows, "values": None if held.values is None else dict(held.values)}
                for name, held in self.fields.items()
            },
        }


HAVING: Mapping[str, Callable[[Record], bool]] = {
    "a system text": lambda record: record.turns[0].role == "system",
    "several answers": lambda record: sum(turn.role == "assistant" for turn in record.turns) > 1,
    "answers that are not learned": lambda record: any(t.role == "assistant" and not t.trained for t in record.turns),
    "an input": lambda record: any(turn.context for turn in record.turns),
    "reasoning": lambda record: any(turn.reasoning for turn in record.turns),
    "tools": lambda record: bool(record.tools),
    "calls of tools": lambda record: any(turn.tool_calls for turn in record.turns),
    "facts": lambda record: bool(record.facts),
}


def lengths_of(record: Record, text: RecordText) -> dict[str, int]:
    """In characters and words; turns without the system's."""
    return {
        "turns": sum(turn.role != "system" for turn in record.turns),
        "prompt characters": len(text.prompt),
        "answer characters": len(text.answer),
        "answer words": len(text.answer.split()),
    }


def main_script(text: str) -> str:
    """The script of most letters at the beginning, as Unicode calls it; languages of one script are not told apart.

    >>> main_script("Почему?"), main_script("Why?"), main_script("42")
    ('CYRILLIC', 'LATIN', 'none')
    """
    beginning = text[:SCRIPT_LETTERS]
    if beginning.isascii():
        return "LATIN" if any(map(str.isalpha, beginning)) else "none"
    counts = Counter(script_of(letter) for letter in beginning if letter.isalpha())
    return counts.most_common(1)[0][0] if counts else "none"


def summary_of_lengths(lengths: np.ndarray) -> dict[str, float]:
    low, median, high = np.quantile(lengths, QUANTILES).tolist()
    return {
        "min": int(lengths.min()),
        "p5": low,
        "median": median,
        "mean": float(lengths.mean()),
        "p95": high,
        "max": int(lengths.max()),
        "total": int(lengths.sum()),
    }


class TokenLengths:
    """Counts tokens as training would have them, some records at a time."""

    def __init__(self, count: Callable[[list[Record]], list[tuple[int, int, int]]]) -> None:
        self.count = count
        self.waiting: list[Record] = []
        self.found: list[tuple[int, int, int]] = []
        self.seen = 0

    def add(self, record: Record) -> None:
        self.waiting.append(record)
        self.seen += 1
        if len(self.waiting) == RECORDS_AT_ONCE:
            self.take()

    def take(self) -> None:
        self.found += self.count(self.waiting)
        self.waiting = []

    def finish(self, statistics: Statistics) -> None:
        self.take()
        for whole, learned, cut in self.found:
            statistics.measure("tokens", whole)
            statistics.measure("learned tokens", learned)
            statistics.cut += cut > 0
        statistics.left_out = max(0, self.seen - len(self.found))


def token_counter(options: argparse.Namespace) -> Callable[[list[Record]], list[tuple[int, int, int]]]:
    """For the tokenizer of --model_name_or_path, with the template that training would take."""
    from neuralchat.data_tools.checking.token_checks import token_checks

    return lengths_by(token_checks(options).encoder)


def lengths_by(encoder: Encoder) -> Callable[[list[Record]], list[tuple[int, int, int]]]:
    """Records -> (tokens, learned tokens, tokens cut) of each example that training makes of them."""

    def count(records: list[Record]) -> list[tuple[int, int, int]]:
        examples = encoder.encode(records, TokenizationCounts(), RowReport())
        return [(len(each.input_ids), int(each.supervised.sum()), int(each.cut_tokens)) for each in examples]

    return count


def told_statistics(found: Statistics, report: RowReport) -> list[Part]:
    names = list(report.kinds)
    head = Table(
        ("file", "records", "kind"),
        [(name, f"{found.per_file[number]:,}", report.kinds[name]) for number, name in enumerate(names)],
    )
    lengths = []
    for name, held in found.lengths.items():
        values = summary_of_lengths(np.asarray(held))
        lengths.append((name, *(shown_number(value) for value in values.values())))
    parts: list[Part] = [head, "", Table(("per record", *summary_of_lengths(np.zeros(1))), lengths), ""]
    figures = [("turns by role", shown_counts(found.roles)), ("scripts", shown_counts(found.scripts))]
    if found.having:
        figures.append(("records with", shown_counts(found.having)))
    if "tokens" in found.lengths:
        figures.append(("cut, left out", f"{found.cut:,} records lose prompt text, {found.left_out:,} are left out"))
    parts.append(Figures(figures))
    rows = [
        (readable(name), f"{held.rows:,}", "many" if held.values is None else shown_counts(held.values))
        for name, held in list(found.fields.items())[:MOST_SHOWN]
    ]
    return [*parts, "", Table(("field", "rows", "values"), rows)]


def shown_counts(counts: Counter[str]) -> str:
    shown = [f"{readable(name)} {count:,}" for name, count in counts.most_common(MOST_SHOWN)]
    return ", ".join(shown) + (", ..." if len(counts) > MOST_SHOWN else "")


def shown_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
