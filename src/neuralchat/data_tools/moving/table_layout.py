"""Rows -> the columns of a table that can hold them all, and for parquet the type of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from neuralchat.data.record_files import TURN_KEYS
from neuralchat.data.records.conversations import CALLS
from neuralchat.data.records.values import from_json_text

ROWS_LOOKED_AT_ONCE = 1000
# Fields whose lists may stand as JSON text.
LISTS = ("messages", "conversations", "history", "tools", "functions", "facts")


class TableLayout:
    """Is shown every row, then knows the columns.

    Lists of turns are lists of parquet's, so are lists of texts. Other lists and objects stand as JSON text, which
    the reader of records takes wherever a list may stand; parquet's own objects would give each the keys of all.
    """

    def __init__(self, *, typed: bool = False) -> None:
        """`typed`: find types too."""
        self.typed = typed
        self.names: dict[str, None] = {}
        self.types: dict[str, Any] = {}
        self.json_names: set[str] = set()
        # Values of each column that wait to be looked at.
        self.waiting: dict[str, list[Any]] = {}

    def look_at(self, row: Mapping[str, Any]) -> None:
        for name, held in row.items():
            self.names.setdefault(name)
            if self.typed and held is not None:
                waiting = self.waiting.setdefault(name, [])
                waiting.append(held)
                if len(waiting) == ROWS_LOOKED_AT_ONCE:
                    self.find_type(name)

    def find_type(self, name: str) -> None:
        import pyarrow

        values, self.waiting[name] = self.waiting[name], []
        if name in self.json_names:
            return
        if not all(map(is_plain_cell, values)):
            self.json_names.add(name)
            return
        try:
            found = pyarrow.array([arrow_cell(held) for held in values]).type
            before = pyarrow.schema([(name, self.types.get(name, pyarrow.null()))])
            both = pyarrow.unify_schemas([before, pyarrow.schema([(name, found)])], promote_options="permissive")
            self.types[name] = both.field(0).type
        except (pyarrow.ArrowException, OverflowError):
            # Texts in one row, numbers in another.
            self.json_names.add(name)

    def schema(self) -> Any:
        import pyarrow

        for name in self.waiting:
            self.find_type(name)
        for name in self.json_names:
            self.types[name] = pyarrow.string()
        return pyarrow.schema([(name, self.types.get(name, pyarrow.null())) for name in self.names])


def is_plain_cell(value: Any) -> bool:
    """Whether parquet holds a value as it is, or nearly so."""
    if isinstance(value, dict):
        return False
    if isinstance(value, list):
        return is_turn_list(value) or all(isinstance(held, str) for held in value)
    return True


def is_turn_list(value: Iterable[Any]) -> bool:
    return all(isinstance(held, dict) and not TURN_KEYS.isdisjoint(held) for held in value)


def arrow_cell(value: Any, *, as_json: bool = False) -> Any:
    """A value as parquet takes it: what is an object or list within a turn as its JSON text."""
    if as_json:
        return value if value is None or isinstance(value, str) else json_text_of(value)
    if isinstance(value, list) and is_turn_list(value):
        return [
            {key: json_text_of(held) if isinstance(held, dict | list) else held for key, held in turn.items()}
            for turn in value
        ]
    # A cell of a text table is a kind of text of our own.
    return str(value) if isinstance(value, str) else value


def from_table(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a table's row as JSON would have them: lists that stand as JSON text, turns without empty keys.

    >>> from_table({"messages": '[{"role": "user", "content": "Hi"}]', "id": "[1]"})
    {'messages': [{'role': 'user', 'content': 'Hi'}], 'id': '[1]'}
    """
    found = {name: list_of(held) if name in LISTS else held for name, held in row.items()}
    return {name: turns_from_table(held) if is_turn_column(held) else held for name, held in found.items()}


def list_of(value: Any) -> Any:
    listed = from_json_text(value)
    return listed if isinstance(listed, list) else value


def is_turn_column(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and is_turn_list(value)


def turns_from_table(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: from_json_text(held) if key in CALLS else held for key, held in turn.items() if held is not None}
        for turn in turns
    ]


def json_text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
