"""A file, a run's held-out records, or the package's general prompts -> the items that are asked and scored."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuralchat.console import note
from neuralchat.data.general_prompts import GeneralPrompt, checked_prompts
from neuralchat.data.record_files import RawRow, SyntaxProblem, read_rows
from neuralchat.data.records import TEXT, Fact, Record, RecordReport, Turn, records_of_rows
from neuralchat.errors import DataError, problem_list
from neuralchat.evaluation.sample_answers import spread_prompts

QUESTIONS, HELD_OUT, GENERAL = "questions", "held out", "general"
# What a row's "checks" may hold, and of which type.
CHECKS: dict[str, tuple[type, ...]] = {"number": (int, float), "json": (bool, list), "pattern": (str,)}
CHECKS_ALLOWED = (
    '"number" (the number that the answer ends with), "json" (true, or a list of the keys of an object), '
    '"pattern" (a regular expression)'
)


@dataclass(frozen=True)
class Item:
    """Something to ask. `turns` end with the question; they are empty of a text, which only has a loss.

    `expected`: the answer that the record gives; empty where none is written down. `facts` and `checks`: what a right
    answer must hold. `record`: whose answers the loss is measured on, if any. `cluster`: what it belongs together with.
    """

    source: str
    turns: tuple[Turn, ...]
    expected: str = ""
    facts: tuple[Fact, ...] = ()
    checks: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    record: Record | None = None
    cluster: str | None = None

    @property
    def question(self) -> str:
        if not self.turns:
            return self.expected
        turn = self.turns[-1]
        return f"{turn.content}\n{turn.context}" if turn.context else turn.content


def items_of_file(path: str, cluster_by: str | None = None) -> list[Item]:
    """The records of a file. Raises DataError with all that is wrong with them."""
    report = RecordReport()
    rows: dict[str, Mapping[str, Any]] = {}
    records = list(records_of_rows(path, noted(path, rows), report))
    notice = report.settle("fail")
    assert notice is None
    return items_of_records(records, rows, cluster_by)


def noted(name: str, rows: dict[str, Mapping[str, Any]]) -> Iterator[RawRow | SyntaxProblem]:
    """The rows of a file as they come; `rows` gets what stands in them, by the name that a record has as its source."""
    for row in read_rows(Path(name)):
        if isinstance(row, RawRow) and isinstance(row.value, dict):
            rows[f"{name} row {row.number}"] = row.value
        yield row


def items_of_records(
    records: Sequence[Record], rows: Mapping[str, Mapping[str, Any]], cluster_by: str | None
) -> list[Item]:
    """`rows`: by a record's source, what else stood there. Raises DataError for checks that cannot be made."""
    problems = [problem for record in records for problem in check_problems(record.source, rows.get(record.source, {}))]
    if cluster_by is not None:
        without = [record.source for record in records if rows.get(record.source, {}).get(cluster_by) is None]
        if without:
            problems.append(f"--cluster_by {cluster_by}: {len(without)} record(s) lack it, the first is {without[0]}")
    if problems:
        raise DataError(problem_list("these records cannot be asked:", problems))
    return [
        Item(
            source=record.source,
            turns=() if record.kind == TEXT else record.turns[:-1],
            expected=record.turns[-1].content,
            facts=record.facts,
            checks=rows.get(record.source, {}).get("checks") or {},
            record=record,
            cluster=None if cluster_by is None else str(rows[record.source][cluster_by]),
        )
        for record in records
    ]


def raw_rows(files: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """By the name that a record of it has as its source."""
    rows: dict[str, Mapping[str, Any]] = {}
    for name in files:
        deque(noted(name, rows), maxlen=0)
    return rows


def check_problems(source: str, row: Mapping[str, Any]) -> list[str]:
    """What is wrong with the "checks" of a row."""
    checks = row.get("checks")
    if checks is None:
        return []
    if not isinstance(checks, dict) or not checks:
        return [f"{source}: field 'checks' must be an object with {CHECKS_ALLOWED}"]
    problems = []
    for name, value in checks.items():
        types = CHECKS.get(name)
        if types is None:
            problems.append(f"{source}: checks hold '{name}'; allowed are {CHECKS_ALLOWED}")
        elif not isinstance(value, types) or (isinstance(value, bool) and bool not in types) or value is False:
            problems.append(f"{source}: checks.{name} cannot be {value!r}; allowed are {CHECKS_ALLOWED}")
        elif name == "pattern":
            try:
                re.compile(str(value))
            except re.error as error:
                problems.append(f"{source}: checks.pattern is no regular expression: {error}")
    return problems


def general_items(count: int | None) -> list[Item]:
    """`count` of the package's general prompts that only measure, from all kinds alike; None: all of them."""
    prompts = spread_prompts(count, checked_prompts())
    if count is not None and len(prompts) < count:
        note(f"the package has {len(prompts)} general questions that measure; all of them are asked")
    return [general_item(prompt, number) for number, prompt in enumerate(prompts, start=1)]


def general_item(prompt: GeneralPrompt, number: int) -> Item:
    source = f"general prompt {number}"
    record = Record((*prompt.turns, Turn("assistant", prompt.answer)), source, "Alpaca") if prompt.answer else None
    return Item(source, prompt.turns, prompt.answer, prompt.facts, prompt.checks, prompt.kind, record)
