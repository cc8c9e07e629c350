"""data/records: recognised kinds, every problem by row, and when reading forbids going on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuralchat.data.record_files import RawRow, SyntaxProblem
from neuralchat.data.records import Record, RecordReport, Turn, read_records, records_of_rows
from neuralchat.data.records.conversations import RULE
from neuralchat.errors import DataError

GOOD = {"instruction": "Say hi.", "output": "Hi."}


def read(*values: Any) -> tuple[list[Record], RecordReport]:
    report = RecordReport()
    rows = iter([RawRow(number, value) for number, value in enumerate(values, start=1)])
    return list(records_of_rows("file.json", rows, report)), report


def only_problem(value: Any) -> str:
    records, report = read(value)
    assert records == []
    assert report.bad_rows == 1
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


def test_alpaca_record() -> None:
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "facts": ["3", ["sum", "total"]]}
    turns = (Turn("user", "Add.", "1 and 2"), Turn("assistant", "3"))
    for facts in (row["facts"], json.dumps(row["facts"])):
        # As JSON text they stand in tables.
        assert read({**row, "facts": facts})[0] == [Record(turns, "file.json row 1", "Alpaca", ("3", ("sum", "total")))]


@pytest.mark.parametrize("row", [GOOD, {**GOOD, "input": ""}, {**GOOD, "input": None}])
def test_alpaca_input_is_optional(row: dict[str, Any]) -> None:
    expected = (Turn("user", "Say hi.", ""), Turn("assistant", "Hi."))
    assert read(row)[0][0].turns == expected


def test_messages_record() -> None:
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi?"},
            {"role": "assistant", "content": "Hi."},
        ]
    }
    turns = (Turn("system", "Be brief."), Turn("user", "Hi?"), Turn("assistant", "Hi."))
    assert read(row)[0] == [Record(turns, "file.json row 1", "messages")]


@pytest.mark.parametrize("speaker", ["gpt", "bot", "model", "assistant"])
def test_sharegpt_record(speaker: str) -> None:
    row = {"conversations": [{"from": "human", "value": "Hi?"}, {"from": speaker, "value": "Hi."}]}
    assert read(row)[0] == [Record((Turn("user", "Hi?"), Turn("assistant", "Hi.")), "file.json row 1", "ShareGPT")]


def turns_of(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


ORDER = f"; {RULE}; found "
ROLES = (
    "system, developer, user, human, prompter, assistant, gpt, bot, model, ai, chatgpt, function_call, tool, function, "
    "observation, ipython"
)
KINDS = "instruction/input/output, messages, conversations, prompt/completion, question/answer, or text"
FACTS = "field 'facts' must be a list of texts or of lists of alternatives"
PROBLEMS: list[tuple[Any, str]] = [
    (7, "expected an object with fields, found int 7"),
    (None, "expected an object with fields, found null"),
    ("x" * 60, f"expected an object with fields, found str '{'x' * 36}..."),
    ({"body": "a", "": "b"}, f"fields not recognised: found body, a column without a name; allowed are {KINDS}"),
    ({}, f"fields not recognised: found no fields; allowed are {KINDS}"),
    ({"instruction": "a"}, "field 'output' is missing; found instruction"),
    ({"output": "a"}, "field 'instruction' is missing; found output"),
    ({"instruction": 3, "output": "a"}, "field 'instruction' must be text, found int 3"),
    ({"instruction": "a", "output": None}, "field 'output' must be text, found null"),
    ({"instruction": "a", "output": " \n"}, "field 'output' is empty"),
    ({**GOOD, "input": ["a"]}, "field 'input' must be text, found list ['a']"),
    ({**GOOD, "output": "ab\ud83d"}, "field 'output' holds half of a surrogate pair at character 2, which is not text"),
    ({**GOOD, "facts": "a"}, f"{FACTS}, found str 'a'"),
    ({**GOOD, "facts": [""]}, f"{FACTS}, found list ['']"),
    ({**GOOD, "facts": ["a", []]}, f"{FACTS}, found list ['a', []]"),
    ({**GOOD, "facts": [["a", 5]]}, f"{FACTS}, found list [['a', 5]]"),
    ({**GOOD, "facts": [["a", ""]]}, f"{FACTS}, found list [['a', '']]"),
    ({**GOOD, "facts": [[["a"]]]}, f"{FACTS}, found list [[['a']]]"),
    (
        {**GOOD, "facts": [["a", "\ud83d"]]},
        "field 'facts' holds half of a surrogate pair at character 0, which is not text",
    ),
    ({"messages": []}, "field 'messages' must be a list of turns, found list []"),
    ({"conversations": "a"}, "field 'conversations' must be a list of turns, found str 'a'"),
    (
        {"messages": [{"role": "user"}]},
        "messages[0] must have 'role' and 'content', found dict {'role': 'user'}",
    ),
    (
        {"messages": [{"role": "narrator", "content": "a"}]},
        f"messages[0].role is str 'narrator'; allowed are {ROLES}",
    ),
    (
        {"messages": [{"role": ["user"], "content": "a"}]},
        f"messages[0].role is list ['user']; allowed are {ROLES}",
    ),
    (
        {"conversations": [{"from": "human", "value": 1}, {"from": "gpt", "value": "a"}]},
        "field 'conversations[0].value' must be text, found int 1",
    ),
    (turns_of("user"), f"messages must not end with user{ORDER}user"),
    (turns_of("system"), f"messages must not end with system{ORDER}system"),
    (turns_of("assistant", "user"), f"messages[0] must not be assistant at the beginning{ORDER}assistant, user"),
    (turns_of("user", "assistant", "user"), f"messages must not end with user{ORDER}user, assistant, user"),
    (
        turns_of("user", "system", "assistant"),
        f"messages[1] must not be system after user{ORDER}user, system, assistant",
    ),
    (
        turns_of("system", "user", "user", "assistant"),
        f"messages[2] must not be user after user{ORDER}system, user, user, assistant",
    ),
    (
        turns_of("user", "assistant", "assistant"),
        f"messages[2] must not be assistant after assistant{ORDER}user, assistant, assistant",
    ),
    (turns_of("tool", "assistant"), f"messages[0] must not be tool at the beginning{ORDER}tool, assistant"),
    (
        turns_of("user", "assistant", "tool", "user", "assistant"),
        f"messages[3] must not be user after tool{ORDER}user, assistant, tool, user, assistant",
    ),
]


@pytest.mark.parametrize(("value", "message"), PROBLEMS)
def test_problem_of_a_row(value: Any, message: str) -> None:
    assert only_problem(value) == f"file.json row 1: {message}"


def test_all_problems_of_a_row_are_told() -> None:
    _, report = read({"instruction": "", "output": 1, "input": 2})
    assert report.problems == [
        "file.json row 1: field 'instruction' is empty",
        "file.json row 1: field 'output' must be text, found int 1",
        "file.json row 1: field 'input' must be text, found int 2",
    ]
    assert report.bad_rows == 1


def test_kinds_do_not_mix_in_a_file() -> None:
    records, report = read(GOOD, turns_of("user", "assistant"), GOOD)
    assert [record.source for record in records] == ["file.json row 1", "file.json row 3"]
    assert report.problems == [
        "file.json row 2: is a messages record, but the file began with Alpaca records; use one kind a file"
    ]


def test_problems_that_parsing_noticed_are_told() -> None:
    report = RecordReport()
    rows = iter([RawRow(1, GOOD, ("field 'output' is given more than once",))])
    assert list(records_of_rows("f", rows, report)) == []
    assert report.problems == ["f row 1: field 'output' is given more than once"]


def test_ignored_fields_are_collected_from_good_rows_only() -> None:
    _, report = read({**GOOD, "id": 1}, {**GOOD, "facts": ["Hi"], "tag": "t"}, {"instruction": "", "other": 1})
    assert report.ignored_fields == {"id", "tag"}


def test_syntax_problem_counts_as_a_bad_row() -> None:
    report = RecordReport()
    rows = iter([RawRow(1, GOOD), SyntaxProblem(2, "is not JSON", False), RawRow(3, GOOD)])
    assert len(list(records_of_rows("f", rows, report))) == 2
    assert (report.good, report.bad_rows, report.fatal, report.problems) == (2, 1, False, ["f row 2: is not JSON"])


def test_file_without_a_record_is_fatal() -> None:
    _, report = read()
    assert report.fatal
    with pytest.raises(DataError, match=r"1 problem\(s\) in the records:\n  - file.json: the file holds no record"):
        report.settle("skip")


def test_settle_without_problems_is_silent() -> None:
    assert read(GOOD)[1].settle("fail") is None


def test_settle_fails_and_names_the_flag() -> None:
    with pytest.raises(DataError, match=r"(?s)1 problem.*row 2: expected an object.*--on_bad_record skip\.$"):
        read(GOOD, 1)[1].settle("fail")


def test_settle_skips_with_a_notice() -> None:
    notice = read(GOOD, 1, GOOD)[1].settle("skip")
    assert notice == (
        "skipped 1 bad record(s), kept 2:\n  - file.json row 2: expected an object with fields, found int 1"
    )


def test_settle_refuses_to_skip_everything() -> None:
    with pytest.raises(DataError, match=r"no usable record is left; all were bad:\n  - file\.json row 1"):
        read(1)[1].settle("skip")


def test_fatal_problem_cannot_be_skipped() -> None:
    report = RecordReport(good=5, bad_rows=1, fatal=True)
    report.add("f", None, "cut off")
    with pytest.raises(DataError, match=r"f: cut off$"):
        report.settle("skip")


def test_problems_of_all_files_are_collected(write_records: Callable[..., Path], tmp_path: Path) -> None:
    paths = [write_records([GOOD], "a.json"), write_records([{"instruction": ""}], "b.json"), tmp_path / "missing.json"]
    report = RecordReport()
    assert [record.source for record in read_records(paths, report)] == [f"{paths[0]} row 1"]
    assert report.problems == [
        f"{paths[1]} row 1: field 'instruction' is empty",
        f"{paths[1]} row 1: field 'output' is missing; found instruction",
        f"{paths[2]}: cannot be read: No such file or directory",
    ]


def test_half_a_surrogate_in_a_file_is_a_problem_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"instruction": "a", "output": "\ud83d"}]))
    report = RecordReport()
    assert list(read_records([path], report)) == []
    assert report.problems == [
        f"{path} row 1: field 'output' holds half of a surrogate pair at character 0, which is not text"
    ]
