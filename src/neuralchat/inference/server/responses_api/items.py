"""The input of a response, as OpenAI's interface has it -> the same conversation as in messages; its tools likewise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.data.records.values import summary_of
from neuralchat.inference.server.conversations import (
    RequestConversation,
    check_list,
    content_from,
    conversation_in_order,
    turn_from,
    without_nulls,
)
from neuralchat.inference.server.refusals import wrong

INSTRUCTIONS_FIELD = "instructions"
# The parts of texts by who says them; answers come back as they were given.
PARTS_OF_ASSISTANT: Mapping[str, Sequence[str]] = {"assistant": ("output_text", "input_text")}
PARTS_OF_OTHERS = ("input_text",)
# What says nothing that a model could read.
LABELS = ("type", "id", "status")
ITEM_KINDS = ("message", "function_call", "function_call_output")
FUNCTION_FIELDS = ("name", "description", "parameters", "strict")


def conversation_of_input(value: Any, instructions: str | None, *, most: int) -> RequestConversation:
    """`instructions` come first, as a system message. Raises RefusedRequestError."""
    items = [{"role": "user", "content": value}] if isinstance(value, str) else value
    check_list(items, "input", most)
    placed = list(placed_turns(items, "input" if isinstance(value, str) else ""))
    if instructions:
        placed = [(INSTRUCTIONS_FIELD, Turn("system", instructions)), *placed]
    return conversation_in_order([turn for _, turn in placed], [place for place, _ in placed], "input")


def placed_turns(items: Sequence[Any], only: str) -> list[tuple[str, Turn]]:
    """`only`: the place of the only item, where that is no list."""
    placed: list[tuple[str, Turn]] = []
    for index, item in enumerate(items):
        place = only or f"input[{index}]"
        if not isinstance(item, dict):
            raise wrong(place, f"{place} must be an object, found {summary_of(item)}")
        held = without_nulls(item)
        kind = held.get("type", "message")
        turn = turn_of_item(held, kind, place)
        # A model makes several calls, with words before them, in one turn.
        if kind == "function_call" and placed and placed[-1][1].role == "assistant":
            last_place, last = placed[-1]
            placed[-1] = (last_place, replace(last, tool_calls=(*last.tool_calls, *turn.tool_calls)))
        else:
            placed.append((place, turn))
    return placed


def turn_of_item(item: Mapping[str, Any], kind: Any, place: str) -> Turn:
    if kind == "message":
        return turn_from(message_of_item(item, place), place)
    if kind == "function_call":
        check_fields(item, ("call_id", "name", "arguments"), place)
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        return turn_from({"role": "assistant", "tool_calls": [call]}, place)
    if kind == "function_call_output":
        check_fields(item, ("call_id", "output"), place)
        output = content_from(item["output"], f"{place}.output", may_be_absent=False, parts=PARTS_OF_OTHERS)
        return turn_from({"role": "tool", "tool_call_id": item["call_id"], "content": output}, place)
    where = f"{place}.type"
    raise wrong(where, f"{where} is {summary_of(kind)}; allowed are {', '.join(ITEM_KINDS)}", code="unsupported_value")


def message_of_item(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    """In the form of /v1/chat/completions."""
    role = item.get("role")
    parts = PARTS_OF_ASSISTANT.get(role, PARTS_OF_OTHERS) if isinstance(role, str) else PARTS_OF_OTHERS
    message = {name: value for name, value in item.items() if name not in LABELS}
    if isinstance(item.get("content"), list):
        message["content"] = content_from(item["content"], f"{place}.content", may_be_absent=False, parts=parts)
    if role == "tool" or "tool_calls" in item:
        raise wrong(
            place, f"{place}: calls of tools and their results are items of type {ITEM_KINDS[1]} and {ITEM_KINDS[2]}"
        )
    return message


def check_fields(item: Mapping[str, Any], names: Sequence[str], place: str) -> None:
    for name in item:
        if name not in (*names, *LABELS):
            raise wrong(f"{place}.{name}"[:200], f"{place}.{name:.100} is not known in an item of {item['type']}")
    for name in names:
        if name not in item:
            raise wrong(f"{place}.{name}", f"{place}.{name} is missing")
        if name != "output" and not isinstance(item[name], str):
            raise wrong(f"{place}.{name}", f"{place}.{name} must be a text, found {summary_of(item[name])}")


def tools_of_chat(tools: Any) -> Any:
    """Functions, whose fields stand flat here, as /v1/chat/completions has them. Raises RefusedRequestError."""
    if not isinstance(tools, list):
        return tools
    found = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if not isinstance(tool, dict) or kind != "function":
            message = f"{where} is {summary_of(kind)}; only tools of type 'function' are taken, which who asks calls"
            raise wrong(where, message, code="unsupported_value")
        held = without_nulls(tool)
        if unknown := [name for name in held if name not in ("type", *FUNCTION_FIELDS)]:
            raise wrong(f"{where}.{unknown[0]}"[:200], f"{where}.{unknown[0]:.100} is not known")
        # Whether arguments follow the schema is for no grammar to say; who is not told so would rely on it.
        if held.get("strict"):
            raise wrong(
                f"{where}.strict", f"{where}.strict must be false: answers follow no grammar", code="unsupported_value"
            )
        function = {name: value for name, value in held.items() if name not in ("type", "strict")}
        found.append({"type": "function", "function": function})
    return found
