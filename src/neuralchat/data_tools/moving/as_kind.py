"""A record -> a row of another kind, or why that kind cannot hold it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from neuralchat.data.records import TEXT, Record, Turn
from neuralchat.inference.terminal.saved import message_of

SHAREGPT_ROLES: Mapping[str, str] = {"user": "human", "assistant": "gpt"}


def told_merges(count: int) -> str:
    """Of records whose input was made a part of the instruction."""
    return (
        f"of {count:,} record(s) the input now follows the instruction after an empty line, as chat templates write it"
    )


class NotHeldError(Exception):
    """What of a record a kind cannot say; the text follows the name of the row."""


@dataclass(frozen=True)
class TargetKind:
    """`kind`: its name in RECORD_KINDS. `holds_context`: Alpaca's `input` has a field of its own."""

    kind: str
    row_of: Callable[[Record], dict[str, Any]]
    holds_context: bool = False


def row_as(record: Record, target: TargetKind) -> tuple[dict[str, Any], Record, bool]:
    """(row, the record that it says, whether Alpaca's `input` was put behind its instruction).

    Raises NotHeldError.
    """
    if (record.kind == TEXT) != (target.kind == TEXT):
        has = "is a text without a question" if record.kind == TEXT else "asks something"
        raise NotHeldError(f"{has}; it cannot become a {target.kind} record")
    merges = not target.holds_context and any(turn.context for turn in record.turns)
    if merges:
        record = replace(record, turns=tuple(map(with_context_in_text, record.turns)))
    row = target.row_of(record)
    if record.facts:
        row["facts"] = [fact if isinstance(fact, str) else list(fact) for fact in record.facts]
    if record.tools:
        row["tools"] = list(record.tools)
    return row, record, merges


def with_context_in_text(turn: Turn) -> Turn:
    """As chat templates write it."""
    return replace(turn, content=f"{turn.content}\n\n{turn.context}", context="") if turn.context else turn


def text_row(record: Record) -> dict[str, Any]:
    return {"text": record.turns[0].content}


def exchange_row(record: Record, asked: str, context: str, answered: str) -> dict[str, Any]:
    """A question and its answer in fields of their own; what was said before is `history`."""
    turns = list(record.turns)
    system = turns.pop(0).content if turns[0].role == "system" else ""
    if problem := next(filter(None, map(exchange_problem, turns)), None):
        raise NotHeldError(problem)
    question, answer = turns[-2:]
    before = turns[:-2]
    if any(turn.context for turn in before):
        raise NotHeldError("has an 'input' in an earlier turn")
    row: dict[str, Any] = {
        asked: question.content,
        **({context: question.context} if context else {}),
        answered: answer.content,
    }
    if system:
        row["system"] = system
    if before:
        row["history"] = [
            [first.content, second.content] for first, second in zip(before[::2], before[1::2], strict=True)
        ]
    return row


def exchange_problem(turn: Turn) -> str | None:
    """What a field of text cannot say of a turn."""
    if turn.role == "tool" or turn.tool_calls:
        return "has calls of tools, which need turns"
    if turn.role == "assistant" and not turn.trained:
        return "has an answer that is not to be learned (weight 0), which needs turns"
    if turn.reasoning:
        return "has a reasoning, which needs turns"
    return f"has turns with {', '.join(turn.extra)}" if turn.extra else None


def messages_row(record: Record) -> dict[str, Any]:
    return {"messages": [message_row(turn) for turn in record.turns]}


def sharegpt_row(record: Record) -> dict[str, Any]:
    turns = []
    for turn in record.turns:
        message = message_row(turn)
        role, content = message.pop("role"), message.pop("content")
        turns.append({"from": SHAREGPT_ROLES.get(role, role), "value": content, **message})
    return {"conversations": turns}


def message_row(turn: Turn) -> dict[str, Any]:
    """A turn as OpenAI's fine-tuning files have it: arguments of calls are JSON text there."""
    message = message_of(turn)
    if turn.tool_calls:
        message["tool_calls"] = [
            {
                **call,
                "function": {
                    **call["function"],
                    "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                },
            }
            for call in turn.tool_calls
        ]
    return message if turn.trained or turn.role != "assistant" else {**message, "weight": 0}


def completion_row(record: Record) -> dict[str, Any]:
    """Texts where that says all; else lists of turns, of which those of the completion are learned."""
    try:
        return exchange_row(record, "prompt", "", "completion")
    except NotHeldError:
        start = completion_start(record.turns)
        prompt = [{**message_row(turn), "weight": None} for turn in record.turns[:start]]
        messages = [{key: held for key, held in message.items() if held is not None} for message in prompt]
        return {"prompt": messages, "completion": [message_row(turn) for turn in record.turns[start:]]}


def completion_start(turns: Sequence[Turn]) -> int:
    """The first answer from which on something is learned; the last one where nothing is."""
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    return next((index for index in answers if turns[index].trained), answers[-1])


# What --to takes.
TARGET_KINDS: Mapping[str, TargetKind] = {
    "alpaca": TargetKind(
        "Alpaca",
        partial(exchange_row, asked="instruction", context="input", answered="output"),
        holds_context=True,
    ),
    "messages": TargetKind("messages", messages_row),
    "sharegpt": TargetKind("ShareGPT", sharegpt_row),
    "prompt_completion": TargetKind("prompt/completion", completion_row),
    "question_answer": TargetKind(
        "question/answer",
        partial(exchange_row, asked="question", context="context", answered="answer"),
        holds_context=True,
    ),
    "text": TargetKind(TEXT, text_row),
}
