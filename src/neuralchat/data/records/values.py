"""One row while it is read: which of its fields are used, what is wrong with it, and how messages quote values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from neuralchat.data.record_files import Blank, readable

NAMES_SHOWN = 8
# The types of parts of a text, as OpenAI's interfaces call them.
TEXT_PARTS = ("text", "input_text", "output_text")
WITHOUT_NAME = "a column without a name"
# Words for nothing that may be what a table asks or answers: what a function returns, whether there are allergies.
WORDS_THAT_ANSWER = frozenset({"None", "null", "NULL"})


@dataclass(slots=True)
class Findings:
    """What reading a row found. `unused`: names of fields that hold something and are not read. `doubts`: what was
    taken for one of two things that it may mean.
    """

    problems: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def problem(self, text: str | None) -> None:
        if text is not None:
            self.problems.append(text)

    def leave_unused(self, fields: Mapping[Any, Any], used: Iterable[str], shown: str = "{}") -> None:
        """Note those of `fields` that hold something and are not among the `used` ones."""
        if len(fields) > len(known := set(used)) or not known.issuperset(fields):
            for name, value in fields.items():
                if name not in known and not is_absent(value):
                    self.unused.append(shown.format(readable(str(name))) if str(name) else WITHOUT_NAME)


class Fields:
    """The fields of a row, and which of them were asked for."""

    def __init__(self, values: Mapping[str, Any], found: Findings) -> None:
        self.values = values
        self.found = found
        self.used: set[str] = set()

    def first(self, names: Sequence[str]) -> tuple[str, Any]:
        """(name, value) of the first of `names` that holds something, else of one that is there, else None."""
        there = None
        for name in names:
            if name in self.values:
                self.used.add(name)
                if not is_absent(value := self.values[name]):
                    return name, value
                there = there or name
        return there or names[0], None if there is None else self.values[there]

    def required_text(self, names: Sequence[str]) -> str:
        name, value = self.first(names)
        if name not in self.values:
            self.found.problem(f"field '{name}' is missing; found {names_of(self.values)}")
        elif isinstance(value, Blank) and value.strip() in WORDS_THAT_ANSWER:
            self.found.doubts.append(
                f"field '{name}' holds '{value.strip()}', which is trained on as that word; "
                "where it means nothing, leave the row out"
            )
        elif is_text_parts(value):
            return joined_content(value, name, self.found, may_be_empty=False)
        else:
            self.found.problem(text_problem(value, name))
        return str(value) if isinstance(value, str) else ""

    def optional_text(self, names: Sequence[str]) -> str:
        """Empty where it is null or no number, as tables write an empty cell."""
        name, value = self.first(names)
        if is_absent(value):
            return ""
        if is_text_parts(value):
            return joined_content(value, name, self.found, may_be_empty=True)
        self.found.problem(text_problem(value, name, may_be_empty=True))
        return value if isinstance(value, str) else ""

    def optional_list(self, names: Sequence[str], what: str) -> tuple[str, list[Any]]:
        """(name, list), the list given as such or as its JSON text; empty where there is none."""
        name, value = self.first(names)
        if is_absent(value):
            return name, []
        listed = from_json_text(value)
        if not isinstance(listed, list):
            self.found.problem(f"field '{name}' must be {what}, found {summary_of(value)}")
            return name, []
        return name, listed

    def finish(self) -> None:
        """Note what nobody asked for."""
        self.found.leave_unused(self.values, self.used)


def joined_content(value: Any, name: str, found: Findings, *, may_be_empty: bool) -> str:
    """A text as it is, or the parts of text in a list joined."""
    if may_be_empty and is_absent(value):
        return ""
    if not isinstance(value, list):
        found.problem(text_problem(value, name, may_be_empty=may_be_empty))
        return value if isinstance(value, str) else ""
    texts = []
    for index, part in enumerate(value):
        where = f"{name}[{index}]"
        if isinstance(part, dict):
            kind = part.get("type", "text")
            if kind not in TEXT_PARTS:
                found.problem(f"{where} is of type {summary_of(kind)}; only text can be trained on")
                return ""
            found.leave_unused(part, ("type", "text"), f"{name.partition('[')[0]}[].{name.rpartition('.')[2]}[].{{}}")
            part, where = part.get("text"), f"{where}.text"
        if problem := text_problem(part, where, may_be_empty=True):
            found.problem(problem)
            return ""
        texts.append(part)
    text = "".join(texts)
    found.problem(text_problem(text, name, may_be_empty=may_be_empty))
    return text


def is_text_parts(value: Any) -> bool:
    """Whether a list stands for a text: of its elements, all texts or parts, one at least says that it is one.

    >>> is_text_parts([{"type": "text", "text": "Hi"}, " there"]), is_text_parts([{"role": "user", "content": "Hi"}])
    (True, False)
    """
    if not isinstance(value, list):
        return False
    parts = [part for part in value if not isinstance(part, str)]
    return bool(parts) and all(isinstance(part, dict) and "type" in part and "role" not in part for part in parts)


def is_absent(value: Any) -> bool:
    """Whether a value says nothing: null, an empty text, or what tables write for an empty cell, as NaN."""
    return value is None or value == "" or isinstance(value, Blank) or (isinstance(value, float) and math.isnan(value))


def from_json_text(value: Any) -> Any:
    """What a text says as JSON; any other value, and a text that is no JSON, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def summary_of(value: Any) -> str:
    """A value's type and beginning, as a message quotes it, such as: int 5."""
    if value is None:
        return "null"
    shown = repr(beginning_of(value))
    kind = str if isinstance(value, str) else type(value)
    return f"{kind.__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"


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
    shown = [readable(str(name)) or WITHOUT_NAME for name in islice(names, NAMES_SHOWN + 1)]
    return ", ".join(shown[:NAMES_SHOWN]) + (", ..." if len(shown) > NAMES_SHOWN else "")


def text_problem(value: Any, name: str, *, may_be_empty: bool = False) -> str | None:
    if not isinstance(value, str):
        return f"field '{name}' must be text, found {summary_of(value)}"
    if not may_be_empty and not value.strip():
        return f"field '{name}' is empty"
    if not may_be_empty and isinstance(value, Blank):
        return (
            f"field '{name}' holds '{value.strip()}', which tables write for nothing; where the word itself is meant, "
            "write the records as JSON"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"field '{name}' holds half of a surrogate pair at character {error.start}, which is not text"
    return None


def json_problem(value: Any, name: str) -> str | None:
    """What keeps a template from writing a value down as JSON."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return f"field '{name}' holds half of a surrogate pair, which is not text"
    except (TypeError, ValueError, RecursionError) as error:
        return f"field '{name}' holds what JSON cannot: {readable(str(error), 80)}"
    return None
