"""data/records/kinds.py: each format as people have it becomes the same turns; what is left unused is named."""

from __future__ import annotations

import doctest
import json
from typing import Any

import pytest

from neuralchat.config.arguments import RECORD_FIELDS
from neuralchat.data.record_files import RawRow
from neuralchat.data.records import (
    Columns,
    Record,
    RecordReport,
    Turn,
    columns,
    reading,
    records_of_rows,
    report,
    values,
)
from neuralchat.data.records.conversations import RULE
from neuralchat.data.records.kinds import ALL_KINDS

NAN = float("nan")
HI = (Turn("user", "Hi?"), Turn("assistant", "Hi."))
BRIEF = Turn("system", "Be brief.")
EARLIER = (Turn("user", "One?"), Turn("assistant", "1."))
WEATHER = {"name": "weather", "description": "The weather.", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": WEATHER}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def read(*values: Any, pairs: tuple[str, ...] = ()) -> tuple[list[Record], RecordReport]:
    report = RecordReport()
    rows = iter([RawRow(number, value) for number, value in enumerate(values, start=1)])
    return list(records_of_rows("f", rows, report, Columns(pairs))), report


def record_of(value: Any, pairs: tuple[str, ...] = ()) -> Record:
    records, report = read(value, pairs=pairs)
    assert report.problems == []
    return records[0]


def messages(*turns: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi?"}, *turns], **beside}


def said(content: Any = "Hi.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


FORMATS: list[tuple[str, dict[str, Any], tuple[Turn, ...]]] = [
    ("Alpaca", {"instruction": "Hi?", "output": "Hi."}, HI),
    ("Alpaca", {"instruction": "Hi?", "input": NAN, "output": "Hi.", "system": None, "history": []}, HI),
    ("Alpaca", {"instruction": "Hi?", "input": "It.", "output": "Hi."}, (Turn("user", "Hi?", "It."), HI[1])),
    # As databricks-dolly has it.
    ("Alpaca", {"instruction": "Hi?", "context": "It.", "response": "Hi."}, (Turn("user", "Hi?", "It."), HI[1])),
    (
        "Alpaca",
        {"instruction": "Hi?", "output": "Hi.", "system": "Be brief.", "history": [["One?", "1."]]},
        (BRIEF, *EARLIER, *HI),
    ),
    ("Alpaca", {"instruction": "Hi?", "output": "Hi.", "history": '[["One?", "1."]]'}, (*EARLIER, *HI)),
    ("prompt/completion", {"prompt": "Hi?", "completion": "Hi."}, HI),
    ("prompt/completion", {"prompt": "Hi?", "response": "Hi."}, HI),
    (
        "prompt/completion",
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}],
            "completion": [said()],
        },
        (BRIEF, *HI),
    ),
    # Only the completion is learned.
    (
        "prompt/completion",
        {
            "prompt": [{"role": "user", "content": "One?"}, said("1."), {"role": "user", "content": "Hi?"}],
            "completion": [said()],
        },
        (EARLIER[0], Turn("assistant", "1.", trained=False), *HI),
    ),
    ("prompt/completion", {"prompt": [{"role": "user", "content": "Hi?"}], "completion": "Hi."}, HI),
    ("question/answer", {"question": "Hi?", "answer": "Hi."}, HI),
    ("question/answer", {"query": "Hi?", "response": "Hi."}, HI),
    ("question/answer", {"question": "Hi?", "answer": "Hi.", "context": "It."}, (Turn("user", "Hi?", "It."), HI[1])),
    *(
        (
            kind,
            {asked: [{"type": "text", "text": "Hi"}, "?"], answered: [{"type": "output_text", "text": "Hi."}]},
            HI,
        )
        for kind, asked, answered in (
            ("Alpaca", "instruction", "output"),
            ("prompt/completion", "prompt", "completion"),
            ("question/answer", "question", "answer"),
        )
    ),
    (
        "prompt/completion",
        {
            "prompt": [{"type": "text", "text": "Hi?"}],
            "completion": [said()],
            "system": [{"type": "text", "text": "Be brief."}],
        },
        (BRIEF, *HI),
    ),
    ("text", {"text": "Once upon a time."}, (Turn("assistant", "Once upon a time."),)),
    ("messages", messages(said()), HI),
    ("messages", messages(said(), system="Be brief."), (BRIEF, *HI)),
    ("messages", {"messages": json.dumps(messages(said())["messages"])}, HI),
    (
        "messages",
        {"messages": [{"role": "developer", "content": "Be brief."}, *messages(said())["messages"]]},
        (BRIEF, *HI),
    ),
    ("messages", {"messages": [{"from": "Human", "value": "Hi?"}, {"from": "GPT", "value": "Hi."}]}, HI),
    (
        "messages",
        messages(said([{"type": "text", "text": "H"}, {"type": "output_text", "text": "i"}, "."])),
        HI,
    ),
    ("messages", messages(said(weight=0)), (HI[0], Turn("assistant", "Hi.", trained=False))),
    ("messages", messages(said(weight=1.0, train=True)), HI),
    ("messages", messages(said(train=False)), (HI[0], Turn("assistant", "Hi.", trained=False))),
    *(
        ("messages", messages(said(**{name: "Well."})), (HI[0], Turn("assistant", "Hi.", reasoning="Well.")))
        for name in ("reasoning_content", "reasoning", "thinking")
    ),
    ("messages", messages(said(name="Bo")), (HI[0], Turn("assistant", "Hi.", extra={"name": "Bo"}))),
    # Null as tables and data sets write what a turn does not have.
    ("messages", messages(said(tool_calls=None, weight=None, name=None, thinking=None)), HI),
    ("ShareGPT", {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hi."}]}, HI),
    (
        "ShareGPT",
        {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hi."}], "system": "Be brief."},
        (BRIEF, *HI),
    ),
    ("ShareGPT", {"conversations": messages(said())["messages"]}, HI),
]


@pytest.mark.parametrize(("kind", "value", "turns"), FORMATS)
def test_format(kind: str, value: dict[str, Any], turns: tuple[Turn, ...]) -> None:
    assert record_of(value) == Record(turns, "f row 1", kind)
    assert read(value)[1].ignored_fields == set()


CALLS: list[dict[str, Any]] = [
    {"tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
    {"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]},
    {"tool_calls": {"name": "weather", "arguments": {"city": "Oslo"}}},
    {"tool_calls": '[{"name": "weather", "arguments": {"city": "Oslo"}}]'},
    {"function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
]


@pytest.mark.parametrize("beside", [{"tools": [TOOL]}, {"tools": json.dumps([WEATHER])}, {"functions": [WEATHER]}])
@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("role", ["tool", "function", "ipython"])
def test_tools(beside: dict[str, Any], calls: dict[str, Any], role: str) -> None:
    result = {"role": role, "content": "Rain.", "name": "weather", "tool_call_id": "c1"}
    record = record_of(messages({"role": "assistant", "content": None, **calls}, result, said(), **beside))
    extra = {"name": "weather", "tool_call_id": "c1"}
    turns = (HI[0], Turn("assistant", "", tool_calls=(CALL,)), Turn("tool", "Rain.", extra=extra), HI[1])
    assert record == Record(turns, "f row 1", "messages", tools=(TOOL,))


def test_tools_of_sharegpt() -> None:
    turns = [
        {"from": "human", "value": "Hi?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        {"from": "observation", "value": ""},
        {"from": "gpt", "value": "Hi."},
    ]
    record = record_of({"conversations": turns, "tools": json.dumps([WEATHER]), "system": ""})
    expected = (HI[0], Turn("assistant", "", tool_calls=(CALL,)), Turn("tool", ""), HI[1])
    assert record == Record(expected, "f row 1", "ShareGPT", tools=(TOOL,))


def test_the_number_of_a_call_stays() -> None:
    (call,) = record_of(messages(said("", tool_calls=[{"id": "c1", "function": {"name": "f"}}]))).turns[1].tool_calls
    assert call == {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {}}}


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    (messages(said(weight=0.5)), "field 'messages[1].weight' is float 0.5; allowed are 0 and 1"),
    (messages(said(train="no")), "field 'messages[1].train' is str 'no'; allowed are true and false"),
    (messages(said(train=True, weight=0)), "messages[1] has a weight and train that contradict each other"),
    (messages(said(None)), "field 'messages[1].content' must be text, found null"),
    (messages(said([])), "field 'messages[1].content' is empty"),
    (
        messages(said([{"type": "image_url", "image_url": {}}])),
        "messages[1].content[0] is of type str 'image_url'; only text can be trained on",
    ),
    (messages(said([{"type": "text", "text": 1}])), "field 'messages[1].content[0].text' must be text, found int 1"),
    (messages(said(thinking={"a": 1})), "field 'messages[1].thinking' must be text, found dict {'a': 1}"),
    (messages(said(tool_calls=7)), "field 'messages[1].tool_calls' must be a list of calls, found int 7"),
    (
        messages(said(tool_calls=[{"function": {}}])),
        "field 'messages[1].tool_calls[0]' must be an object with 'name' and 'arguments', found dict {'function': {}}",
    ),
    (
        messages(said(tool_calls=[{"name": "f", "arguments": "x=1"}])),
        "field 'messages[1].tool_calls[0].arguments' must be an object, or the JSON text of one, found str 'x=1'",
    ),
    (
        messages(said(tool_calls=[{"name": "f", "arguments": {"x": "\ud800"}}])),
        "field 'messages[1].tool_calls[0]' holds half of a surrogate pair, which is not text",
    ),
    (messages({"role": "tool", "content": "x"}), f"messages[1] must not be tool after user; {RULE}; found user, tool"),
    (
        {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "function_call", "value": "x"}]},
        "field 'conversations[1].value' must be a list of calls, found str 'x'",
    ),
    (messages(said(), tools=7), "field 'tools' must be a list of tools, found int 7"),
    (
        messages(said(), tools=["weather"]),
        "field 'tools[0]' must be an object that names a function, found str 'weather'",
    ),
    (
        {"messages": [{"role": "system", "content": "a"}, *messages(said())["messages"]], "system": "b"},
        "has a system text in field 'system' and in messages[0]; give one",
    ),
    ({"instruction": "a", "output": "b", "system": 3}, "field 'system' must be text, found int 3"),
    (
        {"instruction": "a", "output": "b", "history": [["a"]]},
        "field 'history[0]' must be [question, answer], found list ['a']",
    ),
    ({"instruction": "a", "output": "b", "history": [["a", ""]]}, "field 'history[0][1]' is empty"),
    (
        {"instruction": "a", "output": "b", "history": "x"},
        "field 'history' must be a list of [question, answer] pairs, found str 'x'",
    ),
    ({"prompt": "a", "chosen": "b"}, "field 'completion' is missing; found prompt, chosen"),
    ({"prompt": "a", "completion": None}, "field 'completion' must be text, found null"),
    (
        {"prompt": [{"role": "user", "content": "a"}], "completion": []},
        "field 'completion' must be a list of turns, found list []",
    ),
    (
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "user", "content": "b"}]},
        f"turns[1] must not be user after user; {RULE}; found user, user",
    ),
    ({"question": "a"}, "field 'answer' is missing; found question"),
    ({"answer": NAN, "question": "a"}, "field 'answer' must be text, found float nan"),
    (
        {"prompt": [{"type": "image_url", "image_url": "x"}, {"type": "text", "text": "a"}], "completion": "b"},
        "prompt[0] is of type str 'image_url'; only text can be trained on",
    ),
    ({"question": "a", "answer": [{"type": "text", "text": " "}]}, "field 'answer' is empty"),
    ({"text": " "}, "field 'text' is empty"),
    ({"text": ["a"]}, "field 'text' must be text, found list ['a']"),
]


@pytest.mark.parametrize(("value", "message"), PROBLEMS)
def test_problem(value: dict[str, Any], message: str) -> None:
    records, report = read(value)
    assert (records, report.problems) == ([], [f"f row 1: {message}"])


UNUSED: list[tuple[dict[str, Any], set[str]]] = [
    (
        {"instruction": "a", "output": "b", "id": 7, "": "0", "note": None, "empty": ""},
        {"id", "a column without a name"},
    ),
    ({"instruction": "a", "output": "b", "text": "c"}, {"text"}),
    ({"question": "a", "query": "b", "answer": "c"}, {"query"}),
    (messages(said(), prompt="x", prompt_id=1), {"prompt", "prompt_id"}),
    (messages(said(stop=1, tool_calls=[])), {"messages[].stop"}),
    (
        messages(said([{"type": "text", "text": "a", "cache_control": {"x": 1}}])),
        {"messages[].content[].cache_control"},
    ),
    (
        {"messages": [{"role": "user", "content": "Hi?", "weight": 1, "thinking": "x", "train": False}, said()]},
        {"messages[].weight", "messages[].thinking"},
    ),
    ({"text": "a", "tools": [TOOL], "facts": ["a"]}, {"tools"}),
]


@pytest.mark.parametrize(("value", "names"), UNUSED)
def test_what_is_not_used_is_named(value: dict[str, Any], names: set[str]) -> None:
    records, report = read(value)
    assert len(records) == 1
    assert report.ignored_fields == names


def test_columns_give_other_names_to_fields() -> None:
    assert record_of({"q": "Hi?", "a": "Hi."}, ("instruction=q", "output=a")).turns == HI
    assert record_of({"q": "Hi?", "a": "Hi."}, ("question=q", "answer=a")).kind == "question/answer"
    assert record_of({"dialog": messages(said())["messages"]}, ("messages=dialog",)).turns == HI
    assert record_of({"body": "x"}, ("text=body",)).kind == "text"
    # Two change places.
    assert record_of({"output": "Hi?", "instruction": "Hi."}, ("instruction=output", "output=instruction")).turns == HI


def test_a_column_that_stands_for_a_field_hides_the_fields_own() -> None:
    records, report = read({"instruction": "Hi?", "output": "old", "better": "Hi."}, pairs=("output=better",))
    assert records[0].turns == HI
    assert report.ignored_fields == {"column 'output'"}


def test_columns_that_no_row_has() -> None:
    names = Columns(["instruction=q", "input=ctx", "output=a=b"])
    list(records_of_rows("f", iter([RawRow(1, {"q": "Hi?", "a=b": "Hi."})]), RecordReport(), names))
    assert names.missing() == [("--columns input=ctx", "no row has a column 'ctx'; found q, a=b")]


def test_fields_that_columns_may_name_are_those_of_the_kinds() -> None:
    assert {name for kind in ALL_KINDS for name in kind.recognised_by} <= set(RECORD_FIELDS)
    # Each of them is read by some kind: no row that holds it among those of the formats leaves it unused.
    read_by_some = {name for _, value, _ in FORMATS for name in value} | {"tools", "functions", "facts"}
    assert read_by_some == set(RECORD_FIELDS)


def test_equal_problems_are_told_once_with_their_rows() -> None:
    rows = [{"question;answer": "a;b"}] * 40
    _, found = read(*rows)
    assert found.problems == [
        "f rows 1-40 (40 rows): fields not recognised: found question;answer; allowed are instruction/input/output, "
        "messages, conversations, prompt/completion, question/answer, or text"
    ]
    _, found = read(*({"instruction": "a", "output": value} for value in ("b", 1, 2, "b", None, "b", "", "b")))
    assert found.problems == [
        "f rows 2-3, 5 (3 rows), the first: field 'output' must be text, found int 1",
        "f row 7: field 'output' is empty",
    ]


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        ([{"instruction": "a", "output": "b"}, {"instruction": "a", "output": ""}], ["--on_bad_record skip"]),
        ([{"instruction": "a", "output": ""}], []),
        ([{"q": "a"}], ["--columns instruction="]),
        # What has no columns.
        ([["Name a fruit.", "A pear."], "a", None, {}], []),
        ([{"instruction": "a", "output": "b"}, {"q": 1}], ["--on_bad_record skip", "--columns instruction="]),
    ],
)
def test_only_advice_that_helps(rows: list[Any], advice: list[str]) -> None:
    from neuralchat.errors import DataError

    with pytest.raises(DataError) as caught:
        read(*rows)[1].settle("fail")
    for flag in ("--on_bad_record skip", "--columns instruction="):
        assert (flag in str(caught.value)) == (flag in advice)


def test_problems_in_many_places_take_few_words() -> None:
    _, found = read(*({"instruction": "a", "output": "b" if i % 2 else ""} for i in range(200)))
    assert found.problems == ["f rows 1, 3, 5, 7, 9, 11, 13, 15, ... (100 rows): field 'output' is empty"]


def test_doctests() -> None:
    for module in (columns, reading, report, values):
        outcome = doctest.testmod(module)
        assert outcome.attempted >= 1
        assert outcome.failed == 0


UNION = {"messages": None, "instruction": None, "input": None, "output": None, "text": None}
CHAT_ROW = {**UNION, **messages(said())}
ALPACA_ROW = {**UNION, "instruction": "Hi?", "output": "Hi."}


def test_columns_of_other_kinds_that_are_empty_do_not_count() -> None:
    for row, kind in ((ALPACA_ROW, "Alpaca"), (CHAT_ROW, "messages"), ({**ALPACA_ROW, "messages": []}, "Alpaca")):
        record = record_of(row)
        assert (record.kind, record.turns) == (kind, HI)


def test_rows_of_several_kinds_with_the_columns_of_all_are_told_as_such() -> None:
    for first, other, kind in ((CHAT_ROW, ALPACA_ROW, "Alpaca"), (ALPACA_ROW, CHAT_ROW, "messages")):
        records, found = read(first, first, other)
        assert len(records) == 2
        (problem,) = found.problems
        assert problem.startswith(f"f row 3: is a{'n' * (kind == 'Alpaca')} {kind} record, but the file began with ")
    _, found = read(CHAT_ROW, UNION)  # Nothing else is there: a conversation that lacks its turns.
    assert found.problems == ["f row 2: field 'messages' must be a list of turns, found null"]
