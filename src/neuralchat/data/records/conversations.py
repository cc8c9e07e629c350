"""A list of turns, as OpenAI, ShareGPT and other programs write them -> Turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neuralchat.data.records.record import Role, Turn
from neuralchat.data.records.tool_calls import calls_of
from neuralchat.data.records.values import (
    Fields,
    Findings,
    is_absent,
    joined_content,
    names_of,
    summary_of,
    text_problem,
)

PROBLEMS_OF_A_ROW = 5
# The role whose text is a call, as JSON.
FUNCTION_CALL = "function_call"
ROLE_NAMES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    FUNCTION_CALL: "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
REASONING = ("reasoning_content", "reasoning", "thinking")
CALLS = ("tool_calls", "function_call")
TRAINED = ("weight", "train")
# The system text beside the turns.
SYSTEM = ("system", "system_prompt")
# Templates may read them.
EXTRA = ("name", "tool_call_id")
# The system's is left out, a tool may have nothing to say.
MAY_BE_EMPTY = ("system", "tool")
RULE = (
    "a conversation is an optional system turn, then user and assistant in turn, with tool turns after an "
    "assistant's, and ends with the assistant"
)
# What a turn may follow; None is the beginning, a system turn included.
FOLLOWS: Mapping[Role, tuple[Role | None, ...]] = {
    "user": (None, "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def conversation(fields: Fields, key: str, role_key: str, text_key: str) -> list[Turn]:
    """The turns under `key`, after the system text that may stand beside them."""
    system = fields.optional_text(SYSTEM)
    turns = turns_of(fields, key, role_key, text_key)
    if system and turns and turns[0].role == "system":
        fields.found.problem(f"has a system text in field 'system' and in {key}[0]; give one")
    turns = [Turn("system", system), *turns] if system else turns
    if not fields.found.problems:
        fields.found.problem(order_problem([turn.role for turn in turns], key, shift=int(bool(system))))
    return turns


def turns_of(fields: Fields, key: str, role_key: str = "role", text_key: str = "content") -> list[Turn]:
    """The turns under `key`; of a conversation with problems those that have none."""
    name, listed = fields.optional_list((key,), "a list of turns")
    found = fields.found
    if not listed:
        if not found.problems:
            found.problem(f"field '{key}' must be a list of turns, found {summary_of(fields.values.get(name))}")
        return []
    turns: list[Turn] = []
    for index, raw in enumerate(listed):
        if len(found.problems) >= PROBLEMS_OF_A_ROW:
            found.problem(f"{key} has {len(listed)} turns; those from [{index}] on were not looked at")
            return turns
        turn = turn_of(raw, f"{key}[{index}]", role_key, text_key, found)
        # A system turn without a text says as much as none.
        if turn is not None and (turn.content.strip() or turn.role != "system"):
            turns.append(turn)
    return turns


def turn_of(raw: Any, where: str, role_key: str, text_key: str, found: Findings) -> Turn | None:
    """A turn; None where it has a problem."""
    if not isinstance(raw, dict):
        found.problem(f"{where} must have '{role_key}' and '{text_key}', found {summary_of(raw)}")
        return None
    before = len(found.problems)
    fields = Fields(raw, found)
    role_name, said = fields.first((role_key, "role", "from"))
    text_name, text = fields.first((text_key, "content", "value"))
    role = ROLE_NAMES.get(said.strip().lower()) if isinstance(said, str) else None
    if role_name not in raw or (text_name not in raw and not any(raw.get(name) for name in CALLS)):
        found.problem(f"{where} must have '{role_key}' and '{text_key}', found {summary_of(raw)}")
        return None
    if role is None:
        found.problem(f"{where}.{role_name} is {summary_of(said)}; allowed are {', '.join(ROLE_NAMES)}")
        return None
    is_call = said.strip().lower() == FUNCTION_CALL
    if len(raw) == 2 and text_name in raw and not is_call:
        # Most turns have nothing else.
        content = joined_content(text, f"{where}.{text_name}", found, may_be_empty=role in MAY_BE_EMPTY)
        return Turn(role, content) if len(found.problems) == before else None
    reasoning = ""
    calls: tuple[Mapping[str, Any], ...] = ()
    if role == "assistant":
        if is_call:
            calls, text = calls_of(text, f"{where}.{text_name}", found), ""
            if not calls and len(found.problems) == before:
                found.problem(f"field '{where}.{text_name}' holds no call")
        else:
            name, value = fields.first(CALLS)
            calls = calls_of(value, f"{where}.{name}", found)
        reasoning = optional_text(fields, REASONING, where)
    trained = is_trained(fields, role, where)
    # What is wrong with calls is told already; that the text is empty follows from them.
    may_be_empty = role in MAY_BE_EMPTY or is_call or any(raw.get(name) for name in CALLS)
    content = joined_content(text, f"{where}.{text_name}", found, may_be_empty=may_be_empty)
    extra = {name: held for name in EXTRA if (held := optional_text(fields, (name,), where))}
    found.leave_unused(raw, fields.used, f"{where.partition('[')[0]}[].{{}}")
    if len(found.problems) > before:
        return None
    return Turn(role, content, trained=trained, reasoning=reasoning, tool_calls=calls, extra=extra)


def optional_text(fields: Fields, names: Sequence[str], where: str) -> str:
    name, value = fields.first(names)
    if is_absent(value):
        return ""
    fields.found.problem(text_problem(value, f"{where}.{name}", may_be_empty=True))
    return value if isinstance(value, str) else ""


def is_trained(fields: Fields, role: Role, where: str) -> bool:
    """What `weight` (0 or 1) and `train` say; without them, an answer is learned.

    On a turn that is no answer they are right where they say that it is not learned; else they are left unused.
    """
    said = []
    for name, allowed in (("weight", "0 and 1"), ("train", "true and false")):
        value = fields.values.get(name)
        if is_absent(value):
            continue
        if not (isinstance(value, bool) if name == "train" else isinstance(value, int | float) and value in (0, 1)):
            fields.found.problem(f"field '{where}.{name}' is {summary_of(value)}; allowed are {allowed}")
        elif role == "assistant" or not value:
            fields.used.add(name)
            said.append(bool(value))
    if len(set(said)) > 1:
        fields.found.problem(f"{where} has a weight and train that contradict each other")
    return all(said)


def order_problem(roles: Sequence[Role], key: str, shift: int = 0) -> str | None:
    """What is wrong with the order of turns; `shift` of them stand before those under `key`."""
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    found = f"; {RULE}; found {names_of(roles)}"
    before: Role | None = None
    for index, role in enumerate(spoken, start=len(roles) - len(spoken) - shift):
        if before not in FOLLOWS.get(role, ()):
            place = f"after {before}" if before else "at the beginning"
            return f"{key}[{index}] must not be {role} {place}{found}"
        before = role
    return None if before == "assistant" else f"{key} must not end with {before or 'system'}{found}"
