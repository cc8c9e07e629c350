"""Records by columns, by name, or split, as pandas and datasets write them without being asked for rows."""

from __future__ import annotations

import doctest
import json
from typing import Any

import pytest
from support.fuzzing import only_problem, rows_of, values_of

from neuralchat.config.arguments import RECORD_FIELDS
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.record_files import json_columns
from neuralchat.data.record_files import rows as row_limits
from neuralchat.data.record_files.json_columns import rows_of_columns
from neuralchat.errors import DataError

ROWS = [{"instruction": f"Name {i}.", "input": None, "output": f"It is {i}."} for i in range(3)]
NAMES = list(ROWS[0])
CHATS = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"{i}"}] for i in range(2)]
SHAPES = {
    "columns of labels": {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in NAMES},
    "columns": {name: [row[name] for row in ROWS] for name in NAMES},
    "split": {"columns": NAMES, "index": [0, 1, 2], "data": [list(row.values()) for row in ROWS]},
    "by name": {f"id{i}": row for i, row in enumerate(ROWS)},
    "by number": {str(i): row for i, row in enumerate(ROWS)},
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block", [7, None])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_read_however_they_lie(shape: str, name: str, block: int | None, indent: int | None) -> None:
    found = rows_of(json.dumps(SHAPES[shape], indent=indent), name, block=block)
    assert values_of(found) == ROWS
    assert [row.number for row in found] == [1, 2, 3]


def test_conversations_by_columns() -> None:
    assert values_of(rows_of(json.dumps({"messages": CHATS}))) == [{"messages": turns} for turns in CHATS]
    assert values_of(rows_of(json.dumps({"id": [1, 2], "messages": CHATS})))[1] == {"id": 2, "messages": CHATS[1]}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": CHATS[0]},
        {"messages": [{}, *CHATS[0]]},
        {"prompt": CHATS[0][:1], "completion": CHATS[0][1:]},
        {"instruction": ["a", "b"], "output": ["c"]},
        {"instruction": ["a"], "output": "c"},
        {"instruction": {"0": "a"}, "output": {"1": "c"}},
        {"instruction": {"role": "a"}, "output": {"role": "c"}},
        {"other": ["a"], "more": ["c"]},
        {"columns": ["text", "id"], "data": [["a"]]},
        {},
    ],
)
def test_what_is_not_surely_columns_stays_one_row(record: dict[str, Any]) -> None:
    assert rows_of_columns(record, RECORD_FIELDS) is None
    assert values_of(rows_of(json.dumps(record))) == [record]


def test_a_line_of_several_is_one_row() -> None:
    lines = [SHAPES["columns"], ROWS[0]]
    assert values_of(rows_of("\n".join(map(json.dumps, lines)), "a.jsonl")) == lines


def test_what_stands_among_records_by_name_is_named() -> None:
    for indent in (None, 1):
        problem = only_problem(rows_of(json.dumps({"id1": ROWS[0], "version": 2}, indent=indent)))
        assert problem.what == "holds records under names of their own, and 'version', which is none; take it out"
        assert problem.fatal
    (row,) = rows_of('{"id1": {"instruction": "a", "output": "b"}, "id1": {"text": "c"}}')[1:]
    assert row.problems == ("field 'id1' is given more than once",)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("shape", ["columns", "columns of labels"])
def test_columns_that_are_too_large_are_told_how_to_write_rows(
    monkeypatch: pytest.MonkeyPatch, shape: str, indent: int | None
) -> None:
    monkeypatch.setattr(row_limits, "MAX_ROW_BYTES", 1 << 20)
    large: Any = {"columns": ["x"] * 400_000, "columns of labels": {str(i): "x" for i in range(100_000)}}[shape]
    problem = only_problem(rows_of(json.dumps({"question": large, "answer": large}, indent=indent)))
    assert problem.what.startswith("is larger than 1 MiB; a whole file by columns is written by rows with to_json(")


def test_a_dict_given_in_python_is_told_how_to_give_its_rows() -> None:
    with pytest.raises(DataError, match=r"found a dict; of columns give datasets\.Dataset\.from_dict\(it\)"):
        GivenRecords("train_records", {"instruction": ["a"], "output": ["b"]})  # type: ignore[arg-type]


def test_doctests() -> None:
    assert doctest.testmod(json_columns).failed == 0
