"""Rows that a Python program hands over instead of files -> raw rows, as a reader of files yields them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from neuralchat.data.example_store import fingerprint_of
from neuralchat.data.record_files import RawRow
from neuralchat.errors import DataError

# What stands in the place of a file's name: in the arguments, in messages, in the manifest.
TRAIN_RECORDS, VALIDATION_RECORDS = "train_records", "validation_records"
NAMES = (TRAIN_RECORDS, VALIDATION_RECORDS)


@dataclass(frozen=True)
class GivenRecords:
    """`rows`: a list of dicts or a `datasets.Dataset`; it is read several times and never changed.

    >>> given = GivenRecords("train_records", [{"instruction": "Name a fruit.", "output": "An apple."}])
    >>> next(given.raw_rows()).number
    1
    """

    name: str
    rows: Sequence[Any]

    def __post_init__(self) -> None:
        if problem := kind_problem(self.rows):
            raise DataError(f"{self.name} must be a list of dicts or a datasets.Dataset, {problem}")
        if not len(self.rows):
            raise DataError(f"{self.name} is empty")

    def raw_rows(self) -> Iterator[RawRow]:
        """Numbered from 1."""
        for number, row in enumerate(self.rows, start=1):
            yield RawRow(number, row)

    def fingerprint(self) -> str:
        """SHA-256 over the rows as JSON, whatever the order of their names."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(row_text(row).encode("utf-8", "backslashreplace") + b"\0")
        # The name is part of it: messages quote it.
        return fingerprint_of("given", self.name, digest.hexdigest())


def kind_problem(rows: Any) -> str | None:
    """What is wrong with the kind of `rows`, as the end of a sentence."""
    kind = type(rows).__name__
    if kind == "DatasetDict":
        return f"found a DatasetDict; name one of its splits: {', '.join(map(str, rows))}"
    if kind == "DataFrame":
        return 'found a DataFrame; give its to_dict("records")'
    if kind == "dict":
        return "found a dict; of columns give datasets.Dataset.from_dict(it), of records by name list(it.values())"
    # A Dataset is no Sequence by name, but it has a length and can be read again and again.
    readable_again = hasattr(rows, "__len__") and hasattr(rows, "__getitem__") and hasattr(rows, "__iter__")
    if isinstance(rows, str | bytes | dict) or not readable_again:
        return f"found {kind}"
    return None


def row_text(row: Any) -> str:
    """
    >>> row_text({"b": 1, "a": "é"}) == row_text({"a": "é", "b": 1})
    True
    """
    try:
        return json.dumps(row, sort_keys=True, default=repr)
    # Names of several types, a value that holds itself or is nested too deeply: such a row is refused later.
    except (TypeError, ValueError, RecursionError):
        return type(row).__name__
