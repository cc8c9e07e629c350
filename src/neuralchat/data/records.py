"""files -> Record: every source becomes one record type at the door, and every problem is told together.

Recognised by their fields, one kind a file:
  Alpaca      {"instruction": ..., "input": optional, "output": ...}
  messages    {"messages": [{"role": "user", "content": ...}, ...]}
  ShareGPT    {"conversations": [{"from": "human", "value": ...}, ...]}

Files are streamed: memory does not grow with their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from neuralchat.data.record_files import RawRow, SyntaxProblem, read_rows, readable
from neuralchat.errors import DataError, problem_list

Role = Literal["system", "user", "assistant", "tool"]
# A text that a right answer contains, or several of which one is enough.
Fact = str | tuple[str, ...]
# What is kept of the problems and field names of a file, so that a file of bad rows takes no memory.
KEPT_PROBLEMS = 100
KEPT_FIELDS = 50
PROBLEMS_A_ROW = 5
NAMES_SHOWN = 8

ROLE_NAMES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `context` is Alpaca's `input`: material that the instruction is about.

    `trained`: whether an answer is learned. `reasoning`: what an assistant thought before it answered. `tool_calls`:
    the functions that an assistant asks for, as chat templates take them. `extra`: further keys that a chat template
    may read, such as name and tool_call_id.
    """

    role: Role
    content: str
    context: str = ""
    trained: bool = True
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """A conversation that ends with the assistant's turn, and where it came from.

    `kind` is the format it came in: Alpaca, messages or ShareGPT. `facts` are what a right answer must
    contain; only `neuralchat eval` reads them. `tools`: the functions that the assistant may call, as JSON schemas.
    """

    turns: tuple[Turn, ...]
    source: str
    kind: str
    facts: tuple[Fact, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(slots=True)
class RecordReport:
    """What reading found: how many records were good, what was wrong with the others.

    `problems` are the first ones, `unlisted` counts those after them.
    """

    good: int = 0
    problems: list[str] = field(default_factory=list)
    unlisted: int = 0
    bad_rows: int = 0
    fatal: bool = False
    ignored_fields: set[str] = field(default_factory=set)

    def add(self, problems: Iterable[str]) -> None:
        for problem in problems:
            if len(self.problems) < KEPT_PROBLEMS:
                self.problems.append(problem)
            else:
                self.unlisted += 1

    def ignore(self, names: Iterable[str]) -> None:
        for name in names:
            if len(self.ignored_fields) < KEPT_FIELDS:
                self.ignored_fields.add(readable(str(name)))

    def settle(self, on_bad_record: str) -> str | None:
        """Raise DataError if the problems forbid going on, else return a notice (or None).

        `on_bad_record` is "fail" or "skip"; a file that cannot be read to its end always fails.
        """
        if self.problems and (self.fatal or on_bad_record != "skip"):
            hint = "" if self.fatal else "\nCorrect these rows, or leave them out with --on_bad_record skip."
            title = f"{len(self.problems) + self.unlisted} problem(s) in the records:"
            raise DataError(self.listed(title) + hint)
        if not self.good:
            raise DataError(self.listed("no usable record is left; all were bad:"))
        if self.problems:
            return self.listed(f"skipped {self.bad_rows} bad record(s), kept {self.good}:")
        return None

    def listed(self, title: str) -> str:
        return problem_list(title, self.problems, unlisted=self.unlisted)


def read_records(paths: Sequence[str | Path], report: RecordReport) -> Iterator[Record]:
    """Yield the good records of all files in order; problems are added to `report`."""
    for path in paths:
        yield from records_of_rows(str(path), read_rows(Path(path)), report)


def records_of_rows(name: str, rows: Iterator[RawRow | SyntaxProblem], report: RecordReport) -> Iterator[Record]:
    """Turn raw rows into records. `name` is the file (or data set) that messages quote."""
    kind: str | None = None
    rows_seen = 0
    for row in rows:
        if isinstance(row, SyntaxProblem):
            report.add([f"{name}{row.where}: {row.what}"])
            report.fatal |= row.fatal
            report.bad_rows += 1
            continue
        rows_seen += 1
        where = f"{name} row {row.number}"
        found = recognise(row.value)
        kind = kind or found
        if found and found != kind:
            problems = [f"{where}: is a {found} record, but the file began with {kind} records; use one kind a file"]
        else:
            problems = [f"{where}: {problem}" for problem in [*row.problems, *row_problems(row.value, found)]]
        if problems:
            report.add(problems)
            report.bad_rows += 1
            continue
        assert found is not None
        report.good += 1
        report.ignore(row.value.keys() - KNOWN_FIELDS[found])
        yield RECORD_KINDS[found][1](row.value, where)
    if rows_seen == 0 and not report.fatal and not report.bad_rows:
        report.add([f"{name}: the file holds no record"])
        report.fatal = True


def recognise(value: Any) -> str | None:
    """The kind of a raw row by its fields, or None."""
    if not isinstance(value, dict):
        return None
    if "messages" in value:
        return "messages"
    if "conversations" in value:
        return "ShareGPT"
    if "instruction" in value or "output" in value:
        return "Alpaca"
    return None


def row_problems(value: Any, kind: str | None) -> list[str]:
    if not isinstance(value, dict):
        return [f"expected an object with fields, found {summary_of(value)}"]
    if kind is None:
        found = names_of(value) or "no fields"
        return [
            f"fields not recognised: found {found}; allowed are instruction/input/output, messages, or conversations"
        ]
    return RECORD_KINDS[kind][0](value)


def summary_of(value: Any) -> str:
    """A value's type and beginning, as a message quotes it, such as: int 5."""
    if value is None:
        return "null"
    shown = repr(beginning_of(value))
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"


def beginning_of(value: Any, depth: int = 4) -> Any:
    """As much of a value as 40 characters can show: values may be huge, or too deep for repr."""
    if isinstance(value, str | bytes):
        return value[:40]
    if not isinstance(value, list | dict):
        return value
    if depth == 0:
        return "..."
    # The least that 14 elements take is more than is shown, so what is left out is seen to be.
    if isinstance(value, list):
        return [beginning_of(inner, depth - 1) for inner in value[:14]]
    return {str(key)[:40]: beginning_of(inner, depth - 1) for key, inner in islice(value.items(), 14)}


def names_of(names: Iterable[Any]) -> str:
    """Names separated by commas for a message; of many, only the first ones."""
    shown = [readable(str(name)) for name in islice(names, NAMES_SHOWN + 1)]
    return ", ".join(shown[:NAMES_SHOWN]) + (", ..." if len(shown) > NAMES_SHOWN else "")


def text_problem(value: Any, name: str, *, may_be_empty: bool = False) -> str | None:
    if not isinstance(value, str):
        return f"field '{name}' must be text, found {summary_of(value)}"
    if not may_be_empty and not value.strip():
        return f"field '{name}' is empty"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"field '{name}' holds half of a surrogate pair at character {error.start}, which is not text"
    return None


def alpaca_problems(value: dict[str, Any]) -> list[str]:
    problems = []
    for name in ("instruction", "output"):
        if name not in value:
            problems.append(f"field '{name}' is missing; found {names_of(value)}")
        elif problem := text_problem(value[name], name):
            problems.append(problem)
    if value.get("input") is not None and (problem := text_problem(value["input"], "input", may_be_empty=True)):
        problems.append(problem)
    return problems + facts_problems(value)


def facts_problems(value: dict[str, Any]) -> list[str]:
    facts = value.get("facts", [])
    if isinstance(facts, list) and all(fact and isinstance(fact, str | list) for fact in facts):
        texts = [text for fact in facts for text in ([fact] if isinstance(fact, str) else fact)]
        if all(isinstance(text, str) and text for text in texts):
            problems = (text_problem(text, "facts", may_be_empty=True) for text in texts)
            return [problem for problem in problems if problem][:1]
    return [f"field 'facts' must be a list of texts or of lists of alternatives, found {summary_of(facts)}"]


def facts_of(value: Mapping[str, Any]) -> tuple[Fact, ...]:
    return tuple(fact if isinstance(fact, str) else tuple(fact) for fact in value.get("facts", ()))


def conversation_problems(value: dict[str, Any], key: str, role_key: str, text_key: str) -> list[str]:
    turns = value[key]
    if not isinstance(turns, list) or not turns:
        return [f"field '{key}' must be a list of turns, found {summary_of(turns)}"]
    problems: list[str] = []
    roles: list[str | None] = []
    for index, turn in enumerate(turns):
        if len(problems) >= PROBLEMS_A_ROW:
            return [*problems, f"{key} has {len(turns)} turns; those from [{index}] on were not looked at"]
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            problems.append(f"{key}[{index}] must have '{role_key}' and '{text_key}', found {summary_of(turn)}")
            roles.append(None)
            continue
        role = turn[role_key]
        roles.append(ROLE_NAMES.get(role) if isinstance(role, str) else None)
        if roles[-1] is None:
            problems.append(f"{key}[{index}].{role_key} is {summary_of(role)}; allowed are {', '.join(ROLE_NAMES)}")
        if problem := text_problem(turn[text_key], f"{key}[{index}].{text_key}"):
            problems.append(problem)
    return problems + ([] if None in roles else order_problems(roles, key)) + facts_problems(value)


def order_problems(roles: Sequence[str | None], key: str) -> list[str]:
    spoken = list(roles[1:] if roles[0] == "system" else roles)
    expected = ["user", "assistant"] * ((len(spoken) + 1) // 2)
    if spoken and spoken == expected:
        return []
    return [
        f"{key} must be an optional system turn, then user and assistant in turn, ending with the assistant; "
        f"found {names_of(roles)}"
    ]


def alpaca_record(value: dict[str, Any], source: str) -> Record:
    user = Turn("user", value["instruction"], value.get("input") or "")
    return Record((user, Turn("assistant", value["output"])), source, "Alpaca", facts_of(value))


def conversation_record(value: dict[str, Any], source: str, key: str, role_key: str, text_key: str) -> Record:
    turns = tuple(Turn(ROLE_NAMES[turn[role_key]], turn[text_key]) for turn in value[key])
    return Record(turns, source, "messages" if key == "messages" else "ShareGPT", facts_of(value))


MESSAGES = ("messages", "role", "content")
SHAREGPT = ("conversations", "from", "value")
# kind -> (problems of a raw row, record of a good raw row)
RECORD_KINDS = {
    "Alpaca": (alpaca_problems, alpaca_record),
    "messages": (
        lambda value: conversation_problems(value, *MESSAGES),
        lambda value, source: conversation_record(value, source, *MESSAGES),
    ),
    "ShareGPT": (
        lambda value: conversation_problems(value, *SHAREGPT),
        lambda value, source: conversation_record(value, source, *SHAREGPT),
    ),
}
KNOWN_FIELDS = {
    "Alpaca": {"instruction", "input", "output", "facts"},
    "messages": {"messages", "facts"},
    "ShareGPT": {"conversations", "facts"},
}
