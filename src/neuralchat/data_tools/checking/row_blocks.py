"""The rows of a source, a block at a time: what one process looks at while another looks at the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from neuralchat.data.record_files import RawRow, SyntaxProblem
from neuralchat.data.record_source import RecordSource
from neuralchat.data.records import Columns, RecordKind, kind_of_rows

# So many that what each block costs by itself is little.
BLOCK_ROWS = 5000
BLOCK_CHARACTERS = 8 << 20


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Some rows of a file (or data set), which began with records of a `kind`; None where it begins here."""

    name: str
    rows: list[RawRow | SyntaxProblem]
    kind: RecordKind | None

    def __reduce__(self) -> tuple[Any, ...]:
        """Rows go to another process as plain tuples, which takes a third of the time."""
        plain = [(row.number, row.value, row.problems) if isinstance(row, RawRow) else row for row in self.rows]
        return block_of_plain, (self.name, plain, self.kind)


def block_of_plain(name: str, plain: list[Any], kind: RecordKind | None) -> RowBlock:
    return RowBlock(name, [RawRow(*row) if isinstance(row, tuple) else row for row in plain], kind)


def row_blocks(source: RecordSource, rows: int = BLOCK_ROWS, characters: int = BLOCK_CHARACTERS) -> Iterator[RowBlock]:
    """All rows in order, in blocks of so many, or of so many characters. A file without rows has one block."""
    columns = Columns(source.columns)
    for name, raw_rows in source.parts():
        kind: RecordKind | None = None
        block: list[RawRow | SyntaxProblem] = []
        held, is_first = 0, True
        for row in raw_rows:
            block.append(row)
            held += characters_in(row.value) if isinstance(row, RawRow) else 0
            if len(block) == rows or held >= characters:
                yield RowBlock(name, block, kind)
                kind = kind or kind_of_rows(block, columns)
                block, held, is_first = [], 0, False
        if block or is_first:
            yield RowBlock(name, block, kind)


def characters_in(value: Any) -> int:
    """About how much of a row is text, however deep.

    >>> characters_in({"instruction": "Why?", "history": [["Who?", "You."]], "id": 7})
    12
    """
    total, waiting = 0, [value]
    while waiting:
        held = waiting.pop()
        if isinstance(held, str):
            total += len(held)
        elif isinstance(held, dict):
            waiting += held.values()
        elif isinstance(held, list):
            waiting += held
    return total
