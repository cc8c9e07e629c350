"""Records in the shapes in which people publish them: read as they are meant, or refused with what helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuralchat.data.record_files import RawRow
from neuralchat.data.records import Columns, Record, RecordReport, Turn, read_records, records_of_rows

HI = (Turn("user", "Hi?"), Turn("assistant", "Hi."))
ASKED, SAID = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hi."}
UNKNOWN_COLUMNS = "instruction=QUESTION_COLUMN,output=ANSWER_COLUMN"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def read(*values: Any) -> tuple[list[Record], RecordReport]:
    report = RecordReport()
    rows = iter([RawRow(number, value) for number, value in enumerate(values, start=1)])
    return list(records_of_rows("f", rows, report)), report


def read_file(path: Path, content: bytes) -> tuple[list[Record], RecordReport]:
    path.write_bytes(content)
    report = RecordReport()
    return list(read_records([path], report)), report


@pytest.mark.parametrize("text", ["", None, "  \n"])
@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_a_system_turn_without_a_text_is_none(key: str, text: str | None) -> None:
    records, report = read({key: [{"role": "system", "content": text}, ASKED, SAID]})
    assert report.problems == []
    assert records[0].turns == HI


def test_a_system_turn_without_a_text_leaves_the_one_beside_the_turns() -> None:
    records, _ = read({"system": "Be brief.", "messages": [{"role": "system", "content": ""}, ASKED, SAID]})
    assert records[0].turns == (Turn("system", "Be brief."), *HI)


@pytest.mark.parametrize("text", ["", None])
def test_other_turns_without_a_text_are_still_refused(text: str | None) -> None:
    _, report = read({"messages": [ASKED, {"role": "assistant", "content": text}]})
    assert len(report.problems) == 1
    assert "messages[1].content" in report.problems[0]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Hi?", "response": "Hi."},
        {"instruction": "Hi?", "output": "Hi."},
        {"prompt": "Hi?", "completion": "Hi."},
        {"prompt": [ASKED], "completion": [SAID]},
        {"messages": [ASKED, SAID]},
        {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hi."}]},
    ],
)
def test_system_prompt_is_another_name_of_system(row: dict[str, Any]) -> None:
    records, report = read({"system_prompt": "Be brief.", **row})
    assert records[0].turns == (Turn("system", "Be brief."), *HI)
    assert not report.ignored_fields


def test_a_row_may_be_a_list_of_turns(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", [ASKED, SAID]), ("b.json", [[ASKED, SAID]])):
        records, report = read_file(tmp_path / name, json.dumps(content).encode())
        assert report.problems == []
        assert [record.turns for record in records] == [HI]
        assert records[0].kind == "messages"


@pytest.mark.parametrize("value", [["Hi?", "Hi."], [], [{"a": 1}], [ASKED, "Hi."]])
def test_other_lists_are_no_records(value: list[Any]) -> None:
    _, report = read(value)
    assert "expected an object with fields, found list" in report.problems[0]


@pytest.mark.parametrize(("user", "assistant"), [("prompter", "assistant"), ("human", "ai"), ("User ", " chatgpt")])
def test_roles_by_the_names_of_other_programs(user: str, assistant: str) -> None:
    records, _ = read({"messages": [{"role": user, "content": "Hi?"}, {"role": assistant, "content": "Hi."}]})
    assert records[0].turns == HI


def test_a_call_that_is_wrong_is_one_problem() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "no JSON"}}]}
    _, report = read({"messages": [ASKED, call, {"role": "tool", "content": "1"}, SAID]})
    assert len(report.problems) == 1
    assert "arguments' must be an object" in report.problems[0]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"Instruction": "Hi?", "Output": "Hi."}, "instruction=Instruction,output=Output"),
        ({"instruction ": "Hi?", "output": "Hi."}, "'instruction=instruction '"),
        ({"id": 1, "dialog": [ASKED, SAID]}, "messages=dialog"),
        ({"Prompt": "Hi?", "Output": "Hi."}, "instruction=Prompt,output=Output"),
        ({"q": "Hi?", "a": "Hi.", "Context": "c"}, "instruction=q,output=a,input=Context"),
        ({"input": "Hi?", "output": "Hi."}, "instruction=input"),
        # Pairs of answers, of which one was preferred.
        ({"prompt": "Hi?", "chosen": "Hi.", "rejected": "Ho."}, "instruction=prompt,output=chosen"),
        # Of two alone the first is asked.
        ({"first": "Hi?", "second": "Hi."}, "instruction=first,output=second"),
        # Of these nobody can tell.
        ({"Topic": "Fruit", "Answer": "Hi."}, UNKNOWN_COLUMNS),
        ({"Question": "Hi?", "Prompt": "Ho?", "Answer": "Hi."}, UNKNOWN_COLUMNS),
    ],
)
def test_the_advice_names_the_columns_that_are_there(row: dict[str, Any], columns: str) -> None:
    """Those of a whole record: what is advised reads the row."""
    _, report = read(row)
    assert f"--columns {columns} (docs" in report.advice()
    if columns != UNKNOWN_COLUMNS:
        pairs = columns.strip("'").split(",")
        (record,) = records_of_rows("f", iter([RawRow(1, row)]), RecordReport(), Columns(pairs))
        assert record.turns[-1] == HI[-1]


@pytest.mark.parametrize(
    "text",
    ["instruction, output\nHi?,Hi.\n", '"instruction", "output"\n"Hi?", "Hi."\n', " instruction ;output \nHi?;Hi.\n"],
)
def test_spaces_around_the_names_of_columns(tmp_path: Path, text: str) -> None:
    records, report = read_file(tmp_path / "a.csv", text.encode())
    assert report.problems == []
    assert records[0].turns == HI


def test_a_comma_in_a_spaced_and_quoted_cell(tmp_path: Path) -> None:
    text = '"instruction", "input", "output"\n"One, two?", " a", "Three, four."\n'
    records, _ = read_file(tmp_path / "a.csv", text.encode())
    assert records[0].turns == (Turn("user", "One, two?", " a"), Turn("assistant", "Three, four."))


def test_spaces_of_cells_without_quotes_stay(tmp_path: Path) -> None:
    records, _ = read_file(tmp_path / "a.csv", b"instruction,output\nHi?, Hi.\n")
    assert records[0].turns[1].content == " Hi."


def test_commas_between_lines_of_json_are_named(tmp_path: Path) -> None:
    row = json.dumps({"instruction": "Hi?", "output": "Hi."})
    _, report = read_file(tmp_path / "a.jsonl", f"{row},\n{row},\n".encode())
    (problem,) = report.problems
    assert "rows 1-2 (2 rows)" in problem
    assert "a comma after the value" in problem


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (LFS, "is a pointer of Git LFS"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"<HTML></HTML>", "is a web"),
    ],
)
def test_what_stands_in_the_place_of_the_file(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    _, report = read_file(tmp_path / name, content)
    (problem,) = report.problems
    assert what in problem
