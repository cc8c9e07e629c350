"""The rows of a source, a block at a time: what one process looks at while another looks at the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from neuralchat.data.record_files import LineStretch, RawRow, RowsOrStretches, SyntaxProblem
from neuralchat.data.record_files.rows import Rows
from neuralchat.data.record_source import RecordSource
from neuralchat.data.records import Columns, RecordKind, kind_of_rows

# So many that what each block costs by itself is little.
BLOCK_ROWS = 5000
BLOCK_CHARACTERS = 8 << 20


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Some rows of a file (or data set), which began with records of a `kind`; None where it begins here."""

    name: str
    parts: list[RawRow | SyntaxProblem | LineStretch]
    kind: RecordKind | None

    def rows(self) -> Rows:
        for part in self.parts:
            if isinstance(part, LineStretch):
                yield from part.rows()
            else:
                yield part

    def __reduce__(self) -> tuple[Any, ...]:
        """Rows go to another process as plain tuples, which takes a third of the time."""
        plain = [(part.number, part.value, part.problems) if isinstance(part, RawRow) else part for part in self.parts]
        return block_of_plain, (self.name, plain, self.kind)


def block_of_plain(name: str, plain: list[Any], kind: RecordKind | None) -> RowBlock:
    return RowBlock(name, [RawRow(*part) if isinstance(part, tuple) else part for part in plain], kind)


def row_blocks(
    source: RecordSource, rows: int = BLOCK_ROWS, characters: int = BLOCK_CHARACTERS, *, stretches: bool = True
) -> Iterator[RowBlock]:
    """All rows in order, in blocks of so many, or of so many characters. A file without rows has one block.

    With `stretches` lines of JSON are decoded by who looks at the block, which is a stretch of them, whatever its size.
    """
    columns = Columns(source.columns)
    files: Iterator[tuple[str, RowsOrStretches]] = source.parts_in_stretches() if stretches else source.parts()
    for name, raw_rows in files:
        kind: RecordKind | None = None
        parts: list[RawRow | SyntaxProblem | LineStretch] = []
        held, is_first = 0, True
        for part in raw_rows:
            parts.append(part)
            held += characters_in(part.value) if isinstance(part, RawRow) else 0
            if isinstance(part, LineStretch) or len(parts) == rows or held >= characters:
                block = RowBlock(name, parts, kind)
                yield block
                kind = kind or kind_of_rows(block.rows(), columns)
                parts, held, is_first = [], 0, False
        if parts or is_first:
            yield RowBlock(name, parts, kind)


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
