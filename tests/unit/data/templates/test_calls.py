"""data/templates/calls.py: calls of tools are found in an answer as the template writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.templates.styles import STYLES, tokenizer_of

from neuralchat.data.records import Turn
from neuralchat.data.templates.calls import CalledTool, CallFormat, call_format_of
from neuralchat.data.templates.making import make_template
from neuralchat.inference.answer_text import frame_of

AS_JSON = (
    "qwen 2.5",
    "qwen 3",
    "qwen 3, prompt opens the thoughts",
    "qwq",
    "llama 3.1",
    "llama 3.2",
    "llama 4",
    "command a",
    "granite 4",
)
TAGGED = CallFormat("<tool_call>", "</tool_call>", "name", "arguments")
BARE = CallFormat("", "", "name", "parameters")
LISTED = CallFormat("[TOOL_CALLS]", "", "name", "arguments", listed=True)
OSLO, ROME = CalledTool("weather", '{"city": "Oslo"}'), CalledTool("weather", '{"city": "Rôme </tool_call>"}')


def turn_of(*calls: CalledTool) -> Turn:
    listed = [{"function": {"name": call.name, "arguments": json.loads(call.arguments)}} for call in calls]
    return Turn("assistant", "", tool_calls=tuple({"type": "function", **call} for call in listed))


@pytest.mark.parametrize("name", AS_JSON)
def test_what_a_template_writes_is_read(name: str) -> None:
    tokenizer = tokenizer_of(STYLES[name])
    template = make_template("chat", tokenizer)
    frame = frame_of(tokenizer, template)
    found = call_format_of(template, frame.opening, frame.closing)
    assert found is not None
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    for calls in [(OSLO,), (OSLO, ROME)] if found.before else [(OSLO,), (ROME,)]:
        pieces = template.renderings((Turn("user", "a"), turn_of(*calls)), (tool,))[-1].pieces
        text = "".join(piece.text for piece in pieces if piece.supervised and not piece.special)
        said = text.strip().removeprefix(frame.opening.strip())
        assert found.beginning(said) <= 2
        assert found.calls_in(said) == list(calls)


@pytest.mark.parametrize("name", sorted(set(STYLES) - set(AS_JSON)))
def test_templates_that_write_calls_otherwise_or_none_have_no_format(name: str) -> None:
    tokenizer = tokenizer_of(STYLES[name])
    template = make_template("chat", tokenizer)
    assert call_format_of(template) is None
    assert call_format_of(make_template("alpaca", tokenizer)) is None


ONE = '{"name": "weather", "arguments": {"city": "Oslo"}}'


@pytest.mark.parametrize(
    ("form", "text", "calls"),
    [
        (TAGGED, f"<tool_call>{ONE}</tool_call>", [OSLO]),
        (TAGGED, f" <tool_call>\n{ONE}\n</tool_call>\n\n<tool_call>{ONE}</tool_call> ", [OSLO, OSLO]),
        (TAGGED, f"<tool_call>{ONE}", None),
        (TAGGED, f"<tool_call>{ONE}</tool_call> and more", None),
        (TAGGED, "<tool_call>not JSON</tool_call>", None),
        (TAGGED, '<tool_call>{"name": 5, "arguments": {}}</tool_call>', None),
        (TAGGED, '<tool_call>{"name": "a", "arguments": "b"}</tool_call>', None),
        (TAGGED, f"<tool_call>[{ONE}]</tool_call>", None),
        (TAGGED, "<tool_call>" + "[" * 100_000, None),
        (TAGGED, "", None),
        (BARE, ONE.replace("arguments", "parameters"), [OSLO]),
        (BARE, ONE.replace("arguments", "parameters") * 2, None),
        (BARE, "5", None),
        (LISTED, f"[TOOL_CALLS] [{ONE}, {ONE}]", [OSLO, OSLO]),
        (LISTED, f"[TOOL_CALLS] {ONE}", [OSLO]),
        (LISTED, "[TOOL_CALLS] []", None),
        (LISTED, f"[TOOL_CALLS] [{ONE}, 5]", None),
    ],
)
def test_what_is_no_call_stays_text(form: CallFormat, text: str, calls: Any) -> None:
    assert form.calls_in(text) == calls


@pytest.mark.parametrize(
    ("form", "text", "start"),
    [
        (TAGGED, "It is <tool_call>{", 6), (TAGGED, "It is <tool", 6), (TAGGED, "It is <b> <", 10),
        (TAGGED, "It is", 5),
        (BARE, " ", 0), (BARE, ' {"na', 0), (BARE, "It is {", 7), (LISTED, "a [TOOL", 2),
    ],
)  # fmt: skip
def test_what_may_become_a_call_begins_there(form: CallFormat, text: str, start: int) -> None:
    assert form.beginning(text) == start
