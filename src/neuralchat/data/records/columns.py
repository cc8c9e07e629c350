"""--columns: the names that a file has -> the names that records have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neuralchat.data.record_files import readable
from neuralchat.data.records.values import names_of


class Columns:
    """Which column of a file stands for which field of a record. `seen`: the columns that rows had.

    >>> Columns(["instruction=q", "output=a"]).renamed({"q": "Why?", "a": "So.", "id": 7})
    {'id': 7, 'instruction': 'Why?', 'output': 'So.'}
    """

    def __init__(self, pairs: Sequence[str] = ()) -> None:
        """`pairs`: texts like field=column."""
        self.columns: dict[str, str] = {}
        for pair in pairs:
            field, _, column = pair.partition("=")
            self.columns[field] = column
        self.seen: set[str] = set()
        # Some names of a row without any of the columns, for the message.
        self.found_instead = ""

    def renamed(self, value: Any) -> Any:
        """A row under the names of records. Of a field's own column beside the one that stands for it, both stay."""
        if not self.columns or not isinstance(value, Mapping):
            return value
        there = {field: column for field, column in self.columns.items() if column in value}
        self.seen.update(there.values())
        if len(there) < len(self.columns):
            self.found_instead = self.found_instead or names_of(value)
        taken = set(there.values())
        row = {(f"column '{name}'" if name in there else name): v for name, v in value.items() if name not in taken}
        return {**row, **{field: value[column] for field, column in there.items()}}

    def take(self, others: Columns) -> None:
        """What rows after these had."""
        self.seen |= others.seen
        self.found_instead = self.found_instead or others.found_instead

    def missing(self) -> list[tuple[str, str]]:
        """(flag, problem) for each column that no row had."""
        return [
            (
                f"--columns {readable(field)}={readable(column)}",
                f"no row has a column '{readable(column)}'; found {self.found_instead or 'no row'}",
            )
            for field, column in self.columns.items()
            if column not in self.seen
        ]
