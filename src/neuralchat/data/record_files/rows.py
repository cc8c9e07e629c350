"""What every reader of record files yields, and the limits that all of them keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

# A tokenizer takes 250 times the memory of the text it encodes at once: 8 MiB of text take 2 GB.
MAX_ROW_BYTES = 8 << 20
# Each row of a table becomes a mapping of all columns, also where it has one cell.
MAX_COLUMNS = 1000


@dataclass(frozen=True, slots=True)
class RawRow:
    """A parsed row, numbered from 1, and what parsing itself noticed (such as a key given twice)."""

    number: int
    value: Any
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SyntaxProblem:
    """A part of a file that cannot be parsed. `row` is None where it is the file as a whole.

    `fatal`: nothing after it can be read.
    """

    row: int | None
    what: str
    fatal: bool


class Blank(str):
    """A cell of a text table that holds a word which programs write for nothing, as it stands there."""

    __slots__ = ()


# pandas, Python, SQL and R, with what their writers make of a missing value.
BLANK_WORDS = frozenset({"NaN", "nan", "None", "null", "NULL", "<NA>", "NaT", "\\N"})

Rows = Iterator[RawRow | SyntaxProblem]


def too_large() -> str:
    return f"is larger than {MAX_ROW_BYTES >> 20} MiB"


def readable(text: str, limit: int = 40) -> str:
    """The beginning of a name as a message can show it: one line, nothing that a terminal would obey."""
    shown = text[:limit] + ("..." if len(text) > limit else "")
    return shown if shown.isprintable() else repr(shown)[1:-1]


def header_problem(names: Iterable[str]) -> str | None:
    """What is wrong with the names of a table's columns."""
    counted = Counter(names)
    if counted.total() > MAX_COLUMNS:
        return f"the header has {counted.total()} columns; at most {MAX_COLUMNS} are allowed"
    # Spreadsheets leave columns without a name.
    twice = [name for name, times in counted.items() if times > 1 and name]
    return f"column '{readable(twice[0])}' is given more than once in the header" if twice else None
