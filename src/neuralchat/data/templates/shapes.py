"""Which turns a chat template writes at all, found out with neutral turns of the same shape."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.data.templates.chat_text import ChatText, mark
from neuralchat.data.templates.template import Tools
from neuralchat.errors import TemplateError

END_OF_THOUGHTS = "</think>"
DISORDER = "the chat template drops, repeats or reorders turns; use --template alpaca"
NEUTRAL_TOOL: dict[str, Any] = {
    "name": "neutral_tool",
    "description": "It does nothing.",
    "parameters": {"type": "object", "properties": {"value": {"type": "string", "description": "Any text."}}},
}


class TakenShapes:
    """The shapes of conversations that a template takes: roles, and which parts each turn has."""

    def __init__(self, chat_text: ChatText) -> None:
        self.chat_text = chat_text
        self.checked: set[Any] = set()

    def check(self, turns: Sequence[Turn], tools: Tools) -> None:
        """Raise TemplateError where the template writes nothing of some turn, of its calls or of the tools."""
        shape = (bool(tools), *(shape_of(turn) for turn in turns))
        if shape in self.checked:
            return
        neutral = [neutral_turn(turn, i) for i, turn in enumerate(turns)]
        known = ({"type": "function", "function": NEUTRAL_TOOL},) if tools else ()
        text, asked = self.chat_text.text(neutral, known), ""
        if turns[-1].role == "assistant":
            asked = self.chat_text.text(neutral[:-1], known, prompt=True)
        if tools and NEUTRAL_TOOL["name"] not in text:
            raise TemplateError("the chat template knows no tools: it leaves them out; take them out of the records")
        for i, turn in enumerate(neutral):
            if turn.tool_calls and f"function{i}" not in text:
                raise TemplateError(f"the chat template knows no tool calls: it leaves out those of turn {i + 1}")
            if turn.content and mark(f"m{i}") not in text + asked:
                beside = " beside its tool calls" if turn.tool_calls else ""
                raise TemplateError(f"the chat template leaves out the text of turn {i + 1} ({turn.role}){beside}")
            if turn.role == "assistant" and not is_last_text(self.chat_text.text(neutral[: i + 1]), i):
                raise TemplateError(DISORDER)
        self.checked.add(shape)


def is_last_text(text: str, index: int) -> bool:
    """Whether nothing of earlier turns stands behind the content of turn `index`."""
    found = re.findall(mark("m\\d+"), text)
    return mark(f"m{index}") not in found or found[-1] == mark(f"m{index}")


def shape_of(turn: Turn) -> tuple[Any, ...]:
    return turn.role, bool(turn.content), bool(turn.tool_calls), bool(turn.reasoning), END_OF_THOUGHTS in turn.content


def neutral_turn(turn: Turn, index: int) -> Turn:
    """A turn of the same shape, whose parts can be found in what a template writes."""
    content, thoughts = mark(f"m{index}"), mark(f"r{index}")
    if END_OF_THOUGHTS in turn.content:
        content = f"<think>\n{thoughts}\n</think>\n\n{content}"
    call = {"function": {"name": f"function{index}", "arguments": {"value": "x"}}}
    return Turn(
        turn.role,
        content if turn.content else "",
        trained=turn.trained,
        reasoning=thoughts if turn.reasoning else "",
        tool_calls=(call,) if turn.tool_calls else (),
    )
