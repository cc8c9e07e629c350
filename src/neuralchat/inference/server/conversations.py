"""Messages and tools as clients send them -> turns and tools as templates take them; what is wrong is told by place.

More is taken than in records, where every answer is learned: the last turn is the user's, a tool's, or an answer that
is to be gone on with; answers may be empty; messages of one role in a row are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.data.records.conversations import FOLLOWS
from neuralchat.data.records.record import Role
from neuralchat.data.records.tool_calls import calls_of, tools_of
from neuralchat.data.records.values import Fields as RowFields
from neuralchat.data.records.values import Findings, summary_of
from neuralchat.inference.joined_turns import joined_turns
from neuralchat.inference.server.refusals import wrong

MESSAGE_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
# Fields of a message by its role, besides role and content; those of HOLD_NOTHING have to be null, or such a value.
OF_MESSAGES: Mapping[str, tuple[str, ...]] = {
    "system": ("name",),
    "user": ("name",),
    "assistant": ("name", "tool_calls", "reasoning_content"),
    "tool": ("tool_call_id", "name"),
}
HOLD_NOTHING: Mapping[str, tuple[Any, ...]] = {"refusal": ("",), "audio": (), "function_call": (), "annotations": ([],)}
ORDER = (
    "a conversation is an optional system message, then user and assistant in turn, with tool messages after an "
    "assistant's"
)
# What a field of a part that is not read may hold.
EMPTY: tuple[Any, ...] = (None, [])
CANNOT_BE_JOINED = "messages of different names, or behind a call of a tool, are not made one"
CALL_FIELDS, FUNCTION_FIELDS = {"id", "type", "function", "index"}, {"name", "arguments"}


@dataclass(frozen=True)
class RequestConversation:
    """`field`: where it stands in the request, its last message at `last`. `joined`: the places of messages that were
    made one with those before, which have the same role.
    """

    turns: list[Turn]
    field: str
    last: str
    joined: tuple[str, ...] = ()

    @property
    def is_begun(self) -> bool:
        """Whether it ends with an answer that is to be gone on with."""
        return self.turns[-1].role == "assistant"


def conversation_from(messages: Any, *, most: int) -> RequestConversation:
    """What the messages of a request say. Raises RefusedRequestError."""
    check_list(messages, "messages", most)
    places = [f"messages[{index}]" for index in range(len(messages))]
    turns = [turn_from(message, place) for message, place in zip(messages, places, strict=True)]
    return conversation_in_order(turns, places, "messages")


def check_list(messages: Any, field: str, most: int) -> None:
    if not isinstance(messages, list):
        raise wrong(field, f"field '{field}' must be a list, found {summary_of(messages)}")
    if not messages:
        raise wrong(field, f"field '{field}' is empty; it must end with what the user says")
    if len(messages) > most:
        raise wrong(field, f"field '{field}' has {len(messages)} messages; at most {most} are taken")


def turn_from(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise wrong(where, f"{where} must be an object with 'role' and 'content', found {summary_of(message)}")
    named = message.get("role")
    role = MESSAGE_ROLES.get(named) if isinstance(named, str) else None
    if role is None:
        known = ", ".join(MESSAGE_ROLES)
        raise wrong(f"{where}.role", f"{where}.role is {summary_of(named)}; allowed are {known}")
    held = {name: value for name, value in message.items() if value is not None}
    for name, value in held.items():
        if name not in ("role", "content", *OF_MESSAGES[role]) and value not in HOLD_NOTHING.get(name, ()):
            raise wrong(f"{where}.{name}"[:200], f"{where}.{name:.100} is not known in a message of {role}")
    calls = calls_from(held.get("tool_calls"), f"{where}.tool_calls")
    content = content_from(held.get("content"), f"{where}.content", may_be_absent=role == "assistant")
    if role == "user" and not content.strip():
        raise wrong(f"{where}.content", f"{where}.content is empty; the user has to say something")
    if role == "tool" and "tool_call_id" not in held:
        raise wrong(f"{where}.tool_call_id", f"{where}.tool_call_id is missing: which call is this the result of?")
    texts = {name: text_from(held.get(name), f"{where}.{name}") for name in OF_MESSAGES[role] if name != "tool_calls"}
    reasoning = texts.pop("reasoning_content", "")
    extra = {name: text for name, text in texts.items() if text}
    return Turn(role, content, reasoning=reasoning, tool_calls=calls, extra=extra)


def content_from(value: Any, where: str, *, may_be_absent: bool, parts: Sequence[str] = ("text",)) -> str:
    """The text, or the parts of text joined. `parts`: their types."""
    if isinstance(value, str):
        return value
    if value is None and may_be_absent:
        return ""
    if not isinstance(value, list):
        raise wrong(where, f"{where} must be a text or a list of parts of text, found {summary_of(value)}")
    texts = []
    for index, part in enumerate(value):
        place = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else part
        if not isinstance(part, dict) or kind not in parts:
            allowed = " or ".join(f"'{name}'" for name in parts)
            raise wrong(place, f"{place} is {summary_of(kind)}; only parts of type {allowed} are taken")
        if unknown := {name for name in part if name not in ("type", "text") and part[name] not in EMPTY}:
            raise wrong(f"{place}.{min(unknown)}"[:200], f"{place}.{min(unknown):.100} is not known")
        if not isinstance(part.get("text"), str):
            raise wrong(f"{place}.text", f"{place}.text must be a text, found {summary_of(part.get('text'))}")
        texts.append(part["text"])
    return "".join(texts)


def text_from(value: Any, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise wrong(where, f"{where} must be a text, found {summary_of(value)}")
    return value or ""


def calls_from(value: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong(where, f"{where} must be a list of calls, found {summary_of(value)}")
    value = [without_nulls(call, ("function",)) for call in value]
    for index, call in enumerate(value):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or set(call) - CALL_FIELDS or set(function) - FUNCTION_FIELDS:
            shape = "must be an object with 'id', 'type' and 'function', which has 'name' and 'arguments'"
            raise wrong(f"{where}[{index}]", f"{where}[{index}] {shape}, found {summary_of(call)}")
        if call.get("type", "function") != "function":
            raise wrong(f"{where}[{index}].type", f"{where}[{index}].type must be 'function'")
    found = Findings()
    calls = calls_of([{name: item for name, item in call.items() if name != "index"} for call in value], where, found)
    if found.problems:
        raise wrong(where, found.problems[0])
    return calls


def without_nulls(value: Any, within: Sequence[str] = ()) -> Any:
    """null is absent, `within` these fields too; what an argument of a call is stays."""
    if not isinstance(value, dict):
        return value
    held = {name: item for name, item in value.items() if item is not None}
    return {name: without_nulls(item) if name in within else item for name, item in held.items()}


def conversation_in_order(turns: Sequence[Turn], places: Sequence[str], field: str) -> RequestConversation:
    """Messages of one role in a row as one. `places`: where each stands in the request."""
    whole = joined_turns(turns)
    check_order(whole.turns, [places[start] for start in whole.starts], field)
    spoken = [turn for turn in whole.turns if turn.content or turn.role != "system"]
    return RequestConversation(spoken, field, places[-1], tuple(places[index] for index in whole.added(len(turns))))


def check_order(turns: Sequence[Turn], places: Sequence[str], field: str) -> None:
    before: Role | None = None
    for index, (turn, place) in enumerate(zip(turns, places, strict=True)):
        if index == 0 and turn.role == "system":
            continue
        if before not in FOLLOWS.get(turn.role, ()):
            after = f"after {before}" if before else "at the beginning"
            cannot = f", and {CANNOT_BE_JOINED}" if turn.role == before else ""
            raise wrong(f"{place}.role", f"{place}.role must not be {turn.role} {after}{cannot}; {ORDER}")
        before = turn.role
    if before is None:
        raise wrong(field, f"field '{field}' holds a system message only; {ORDER}")


def tools_from(tools: Any, choice: Any) -> tuple[Mapping[str, Any], ...]:
    """The tools that a prompt shows. Raises RefusedRequestError."""
    if choice not in (None, "auto", "none"):
        raise wrong(
            "tool_choice",
            f"field 'tool_choice' is {summary_of(choice)}; allowed are 'auto' and 'none': no model here is made to "
            "call a tool",
            code="unsupported_value",
        )
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise wrong("tools", f"field 'tools' must be a list, found {summary_of(tools)}")
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
            where = f"tools[{index}]"
            raise wrong(where, f"{where} must be an object of type 'function', found {summary_of(tool)}")
    found = Findings()
    known = tools_of(RowFields({"tools": tools}, found))
    if found.problems:
        raise wrong("tools", found.problems[0])
    return () if choice == "none" else known


def check_format(value: Any, field: str = "response_format") -> None:
    """Text is the only format of answers; refused by its name is any other."""
    if value is None or value == {"type": "text"}:
        return
    kind = value.get("type") if isinstance(value, dict) else value
    raise wrong(
        field,
        f"field '{field}' is {summary_of(kind)}; only type 'text' is supported: answers follow no grammar",
        code="unsupported_value",
    )
