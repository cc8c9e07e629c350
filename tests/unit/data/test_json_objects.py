"""data/record_files/json_rows.py: objects that hold the records, and records that are spread over lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import only_problem, rows_of, values_of

from neuralchat.data.record_files import RawRow, SyntaxProblem
from neuralchat.data.record_files import rows as row_limits

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
BLOCKS = st.integers(4, 40)
ENDINGS = st.sampled_from(["a.json", "a.jsonl"])
ROWS = [{"instruction": f"é{i}", "output": "b" * i} for i in range(5)]
RECORDS = st.lists(st.fixed_dictionaries({"instruction": TEXTS, "output": TEXTS}), min_size=1, max_size=6)
# No field of a record, and no list of objects.
BESIDE = st.dictionaries(
    TEXTS.map("x".__add__), st.none() | st.integers() | TEXTS | st.lists(TEXTS, max_size=2), max_size=3
)


@given(rows=RECORDS, before=BESIDE, after=BESIDE, block=BLOCKS, indent=st.sampled_from([None, 0, 2]), name=ENDINGS)
def test_object_that_holds_the_records_under_one_key(
    rows: list[dict[str, str]], before: dict[str, Any], after: dict[str, Any], block: int, indent: int | None, name: str
) -> None:
    text = json.dumps({**before, "data": rows, **{k: v for k, v in after.items() if k not in before}}, indent=indent)
    assert values_of(rows_of(text, name, block=block)) == rows


@given(rows=RECORDS, block=BLOCKS, name=ENDINGS)
def test_objects_spread_over_lines(rows: list[dict[str, str]], block: int, name: str) -> None:
    """As `jq .` writes them; a single one is one record."""
    text = "\n".join(json.dumps(row, indent=2) for row in rows)
    assert values_of(rows_of(text, name, block=block)) == rows


def test_array_over_several_lines_in_a_file_of_lines() -> None:
    assert values_of(rows_of(json.dumps(ROWS, indent=1), "a.jsonl")) == ROWS


@pytest.mark.parametrize("indent", [None, 2])
def test_a_conversation_alone_is_a_record(indent: int | None) -> None:
    row = {"id": 7, "messages": [{"role": "user", "content": "Hi"}], "tags": [{"a": 1}]}
    assert values_of(rows_of(json.dumps(row, indent=indent))) == [row]
    assert values_of(rows_of(json.dumps({"tags": [{"a": 1}]}) + "\n" + json.dumps(ROWS[0]))) == [
        {"tags": [{"a": 1}]},
        ROWS[0],
    ]


BROKEN_OBJECTS = [
    (
        {"train": ROWS[:1], "test": ROWS[:2]},
        None,
        "holds lists of objects under several keys: train, test; keep one, or give each a file",
    ),
    (
        {"data": ROWS[:1], "system": "Be kind."},
        None,
        "holds records under 'data', and fields of a record beside them: system; put the records alone into the file",
    ),
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(("content", "row", "what"), BROKEN_OBJECTS)
def test_object_that_does_not_say_what_the_records_are(
    content: dict[str, Any], row: int | None, what: str, indent: int | None
) -> None:
    assert only_problem(rows_of(json.dumps(content, indent=indent))) == SyntaxProblem(row, what, True)


BROKEN_TEXTS = [
    ('{"version": 1,\n"data": [{"a": 1},\n{"a" 2}]}', 2, "is not JSON at line 3, column 6: Expecting ':' delimiter"),
    ('{\n"data": [{"a": 1}]\n} x', None, "is not JSON at line 3, column 3: text after the closing '}'"),
    ('{\n"version" 1}', 1, "is not JSON at line 2, column 11: expected ':'"),
    ('{\n"version": 1\n"data": []}', 1, "is not JSON at line 3, column 1: expected ',' or '}'"),
    ('{\n"data": [{"a": 1}],', None, "is not JSON at line 2, column 20: Expecting value"),
    ('{\n"a": 1}\n{"a": }', 2, "is not JSON at line 3, column 7: Expecting value"),
]


@pytest.mark.parametrize("block", [4, 9, None])
@pytest.mark.parametrize(("content", "row", "what"), BROKEN_TEXTS)
def test_broken_object(content: str, row: int | None, what: str, block: int | None) -> None:
    assert only_problem(rows_of(content, block=block)) == SyntaxProblem(row, what, True)


def test_rows_of_a_line_and_of_an_object_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_limits, "MAX_ROW_BYTES", 1 << 20)
    large, problem = {"instruction": "x" * (2 << 20)}, "is larger than 1 MiB"
    assert rows_of(json.dumps(large) + "\n" + json.dumps(ROWS[0])) == [
        SyntaxProblem(1, problem, False),
        RawRow(2, ROWS[0]),
    ]
    many = [{"instruction": "x" * 1000}] * 3000
    assert values_of(rows_of(json.dumps({"version": 1, "data": many}))) == many
    assert rows_of(json.dumps({"data": [ROWS[0], large]})) == [RawRow(1, ROWS[0]), SyntaxProblem(2, problem, True)]
