"""data/records/asked.py: what a file asks, whether or not it has the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuralchat.data.records.asked import read_asked
from neuralchat.errors import DataError

TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
ANSWERED = [*TALK, {"role": "assistant", "content": "d"}]
SHARED = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"question": "c"}, ["c"]),
        ({"question": "c", "answer": None}, ["c"]),
        ({"question": "c", "answer": "d", "facts": ["d"]}, ["c"]),
        ({"query": "c", "history": [["a", "b"]], "system": "s"}, ["s", "a", "b", "c"]),
        ({"instruction": "c", "input": "x"}, ["c"]),
        ({"instruction": "c", "output": ""}, ["c"]),
        ({"instruction": "c", "output": "d"}, ["c"]),
        ({"prompt": "c"}, ["c"]),
        ({"messages": TALK}, ["a", "b", "c"]),
        ({"messages": ANSWERED}, ["a", "b", "c"]),
        ({"messages": json.dumps(TALK)}, ["a", "b", "c"]),
        (TALK, ["a", "b", "c"]),
        ({"conversations": SHARED}, ["a", "b", "c"]),
        ({"conversations": [*SHARED, {"from": "gpt", "value": "d"}]}, ["a", "b", "c"]),
    ],
)
def test_what_is_asked(row: Any, asked: list[str], write_records: Callable[..., Path]) -> None:
    (found,) = read_asked(write_records([row]))
    assert [turn.content for turn in found.turns] == asked
    if isinstance(row, dict) and "input" in row:
        assert found.turns[-1].context == "x"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a"}, "is a text without a question"),
        ({"messages": [TALK[1]]}, "must not be assistant at the beginning"),
        ({"messages": []}, "must be a list of turns"),
        ({"question": ""}, "field 'question'"),
        ({"wrong": "a"}, "fields not recognised"),
        ({"messages": TALK, "tools": [{"name": "f", "parameters": {}}]}, "has tools, which are not called here"),
    ],
)
def test_what_asks_nothing_is_refused(row: Any, said: str, write_records: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=said):
        read_asked(write_records([row]))
