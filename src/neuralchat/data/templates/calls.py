"""The text of an answer -> the calls of tools in it, as a template writes them: JSON, with or without marks around it.

How is found out from a call that the template is given to write. A template that writes calls otherwise (an argument
on each line, say) has no format here; its calls stay text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.data.templates.shapes import NEUTRAL_TOOL
from neuralchat.data.templates.template import Template
from neuralchat.errors import TemplateError

NEUTRAL_ARGUMENTS = {"value": "x"}
DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class CalledTool:
    """`arguments`: JSON text of an object."""

    name: str
    arguments: str


@dataclass(frozen=True)
class CallFormat:
    """`before` and `after` stand around each call; `listed`: all calls are one list. White space does not count."""

    before: str
    after: str
    name_key: str
    arguments_key: str
    listed: bool = False

    def beginning(self, text: str) -> int:
        """Where in the text of an answer, which may go on, calls begin or may yet do so; its length where nowhere."""
        if not self.before:
            return 0 if not text.strip() or text.lstrip().startswith("[" if self.listed else "{") else len(text)
        if (place := text.find(self.before)) >= 0:
            return place
        counts = range(min(len(self.before) - 1, len(text)), 0, -1)
        return len(text) - next((count for count in counts if text.endswith(self.before[:count])), 0)

    def calls_in(self, text: str) -> list[CalledTool] | None:
        """The calls that the end of a whole answer consists of; None where it is anything else."""
        found: list[CalledTool] = []
        rest = text.strip()
        while rest:
            if not rest.startswith(self.before):
                return None
            rest = rest[len(self.before) :].lstrip()
            try:
                value, end = DECODER.raw_decode(rest)
            except (ValueError, RecursionError):
                return None
            rest = rest[end:].lstrip()
            calls = [self.call(item) for item in (value if self.listed and isinstance(value, list) else [value])]
            if not rest.startswith(self.after) or None in calls:
                return None
            found += filter(None, calls)
            rest = rest[len(self.after) :].lstrip()
            if rest and (self.listed or not self.before):
                return None
        return found or None

    def call(self, value: Any) -> CalledTool | None:
        if not isinstance(value, dict):
            return None
        name, arguments = value.get(self.name_key), value.get(self.arguments_key)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        return CalledTool(name, json.dumps(arguments, ensure_ascii=False))


def call_format_of(template: Template, opening: str = "", closing: str = "") -> CallFormat | None:
    """`opening` and `closing`: the text of the template's frame, which is no part of an answer's text."""
    call = {"type": "function", "function": {"name": NEUTRAL_TOOL["name"], "arguments": NEUTRAL_ARGUMENTS}}
    turns = (Turn("user", "question"), Turn("assistant", "", tool_calls=(call,)))
    try:
        pieces = template.renderings(turns, ({"type": "function", "function": NEUTRAL_TOOL},))[-1].pieces
    except TemplateError:
        return None
    text = "".join(piece.text for piece in pieces if piece.supervised and not piece.special)
    for place in (i for i, letter in enumerate(text) if letter in "[{"):
        try:
            value, end = DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            continue
        listed = isinstance(value, list) and len(value) == 1
        keys = keys_of(value[0] if listed else value)
        if keys is not None:
            before = text[:place].strip().removeprefix(opening.strip()).strip()
            after = text[end:].strip().removesuffix(closing.strip()).strip()
            # With more of the JSON around it, it is no call of its own.
            return None if '"' in before + after else CallFormat(before, after, *keys, listed=listed)
    return None


def keys_of(value: Any) -> tuple[str, str] | None:
    """(that of the name, that of the arguments) in the JSON of the neutral call."""
    if not isinstance(value, Mapping):
        return None
    names = [key for key, held in value.items() if held == NEUTRAL_TOOL["name"]]
    arguments = [key for key, held in value.items() if held == NEUTRAL_ARGUMENTS]
    return (names[0], arguments[0]) if names and arguments else None
