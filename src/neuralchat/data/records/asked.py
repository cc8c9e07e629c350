"""Rows that ask, with an answer or without one -> the turns that are to be answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralchat.data.record_files import RawRow, SyntaxProblem, read_rows
from neuralchat.data.records.columns import Columns
from neuralchat.data.records.conversations import ROLE_NAMES
from neuralchat.data.records.kinds import TEXT, RecordKind, recognise
from neuralchat.data.records.reading import as_object, records_of_rows
from neuralchat.data.records.record import Turn
from neuralchat.data.records.report import RecordReport
from neuralchat.data.records.values import from_json_text, is_absent
from neuralchat.errors import DataError

# Stands where a row has no answer, so that one reader is enough for both.
STAND_IN = "?"
# Where each kind has its answer.
ANSWER_FIELDS: Mapping[str, Sequence[str]] = {
    "Alpaca": ("output", "response"),
    "prompt/completion": ("completion", "response"),
    "question/answer": ("answer", "response"),
}
TURN_LISTS: Mapping[str, tuple[str, str, str]] = {
    "messages": ("messages", "role", "content"),
    "ShareGPT": ("conversations", "from", "value"),
}


@dataclass(frozen=True)
class AskedTurns:
    """A conversation that waits for an answer, and where it came from."""

    turns: tuple[Turn, ...]
    source: str


def read_asked(path: Path) -> list[AskedTurns]:
    """What every row of a file of records asks; the answer that it may have is left out.

    Raises DataError with all problems, also for texts, which ask nothing, and for tools.
    """
    report = RecordReport()
    records = list(records_of_rows(str(path), answered_rows(read_rows(path)), report, Columns()))
    report.settle("fail")
    problems = [f"{record.source} is a text without a question" for record in records if record.kind == TEXT]
    problems += [f"{record.source} has tools, which are not called here" for record in records if record.tools]
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise DataError(f"not everything can be answered: {problems[0]}{more}")
    return [AskedTurns(record.turns[:-1], record.source) for record in records]


def answered_rows(rows: Iterator[RawRow | SyntaxProblem]) -> Iterator[RawRow | SyntaxProblem]:
    """Rows of which each has an answer."""
    for row in rows:
        value = as_object(row.value) if isinstance(row, RawRow) else None
        kind = recognise(value)
        if isinstance(row, RawRow) and kind is not None and isinstance(value, dict):
            yield RawRow(row.number, with_answer(value, kind), row.problems)
        else:
            yield row


def with_answer(value: dict[str, Any], kind: RecordKind) -> dict[str, Any]:
    if (names := TURN_LISTS.get(kind.name)) is not None:
        key, role_key, text_key = names
        listed = from_json_text(value[key]) if key in value else None
        if isinstance(listed, list) and listed and role_of(listed[-1], role_key) != "assistant":
            return {**value, key: [*listed, {role_key: "assistant", text_key: STAND_IN}]}
        return value
    fields = ANSWER_FIELDS.get(kind.name, ())
    if fields and all(is_absent(value.get(name)) for name in fields):
        return {**value, fields[0]: STAND_IN}
    return value


def role_of(turn: Any, role_key: str) -> str | None:
    said = (
        next((turn[name] for name in (role_key, "role", "from") if name in turn), None)
        if isinstance(turn, dict)
        else None
    )
    return ROLE_NAMES.get(said.strip().lower()) if isinstance(said, str) else None
