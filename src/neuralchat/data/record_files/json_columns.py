"""An object that holds its records by columns, as pandas' to_json and datasets' to_dict give them -> its rows."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from typing import Any

# An object with one of them is a turn.
TURN_KEYS = frozenset({"role", "from"})


def rows_of_columns(value: Any, fields: Collection[str]) -> list[dict[str, Any]] | None:
    """The rows of an object with columns of equal length; None for any other value.

    A column is an object with a value for each row's label, or a list. A list of turns is none: it is a field of one
    record.

    >>> rows_of_columns({"question": {"0": "Why?"}, "answer": {"0": "So."}}, ("question", "answer"))
    [{'question': 'Why?', 'answer': 'So.'}]
    >>> rows_of_columns({"question": ["Why?"], "answer": ["So."]}, ("question", "answer"))
    [{'question': 'Why?', 'answer': 'So.'}]
    >>> rows_of_columns({"columns": ["text"], "index": [0], "data": [["So."]]}, ("text",))
    [{'text': 'So.'}]
    """
    if not isinstance(value, dict) or not value:
        return None
    if {"columns", "data"} <= value.keys() <= {"columns", "index", "data"}:
        return rows_of_lists(value["columns"], value["data"], fields)
    if not any(name in fields for name in value):
        return None
    columns = list(value.values())
    if all(isinstance(column, dict) and column for column in columns):
        labels = columns[0].keys()
        if any(column.keys() != labels for column in columns) or TURN_KEYS & labels:
            return None
        return [{name: column[label] for name, column in value.items()} for label in labels]
    if all(isinstance(column, list) and column for column in columns):
        lengths = {len(column) for column in columns}
        # One is enough: others may be broken, which is told when the record is read.
        if len(lengths) > 1 or any(map(is_turn_like, chain.from_iterable(columns))):
            return None
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return None


def rows_of_lists(names: Any, data: Any, fields: Collection[str]) -> list[dict[str, Any]] | None:
    """Rows without names, and the names beside them."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not isinstance(data, list):
        return None
    fits = all(isinstance(row, list) and len(row) == len(names) for row in data)
    known = any(name in fields for name in names) and len(set(names)) == len(names)
    return [dict(zip(names, row, strict=True)) for row in data] if fits and known and data else None


def is_turn_like(value: Any) -> bool:
    return isinstance(value, dict) and not TURN_KEYS.isdisjoint(value)
