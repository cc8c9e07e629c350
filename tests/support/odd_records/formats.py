"""Conversations -> rows of every format, as people have them, and what must be read from each."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from neuralchat.data.records import Turn

WORDS = [
    "water", "boils", "at 100,5", "é", "🙂", "</s>", '"quoted"', "a;b", "x|y", "tab\there", "{{ messages }}", "[INST]",
    "\\n", "### Response:", "line\nbreak", "a\u2028b", "<|im_end|>", "null", "NaN", "{", "]",
]  # fmt: skip
Conversation = tuple[str, list[tuple[str, str]]]
Written = tuple[dict[str, Any], list[Turn]]


def words(rng: random.Random, most: int = 6) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def conversation(rng: random.Random, turns: int) -> Conversation:
    """(system text or empty, pairs of question and answer)."""
    return words(rng) if rng.random() < 0.3 else "", [(words(rng), words(rng)) for _ in range(turns)]


def turns_of(talk: Conversation) -> list[Turn]:
    system, pairs = talk
    spoken = [turn for asked, said in pairs for turn in (Turn("user", asked), Turn("assistant", said))]
    return [Turn("system", system), *spoken] if system else spoken


def absent(rng: random.Random) -> Any:
    return rng.choice([None, "", float("nan")])


def alpaca(rng: random.Random) -> Written:
    talk = conversation(rng, rng.randint(1, 3))
    system, pairs = talk
    asked, said = pairs[-1]
    turns = turns_of(talk)
    row: dict[str, Any] = {"instruction": asked, rng.choice(["output", "response"]): said}
    if system or rng.random() < 0.3:
        row["system"] = system or absent(rng)
    if len(pairs) > 1 or rng.random() < 0.3:
        earlier = [list(pair) for pair in pairs[:-1]]
        row["history"] = rng.choice([earlier, json.dumps(earlier)])
    if rng.random() < 0.5:
        context = words(rng) if rng.random() < 0.5 else ""
        row[rng.choice(["input", "context"])] = context or absent(rng)
        turns[-2] = Turn("user", asked, context)
    return row, turns


def question_answer(rng: random.Random) -> Written:
    talk = ("", conversation(rng, 1)[1])
    ((asked, said),) = talk[1]
    return {rng.choice(["question", "query"]): asked, rng.choice(["answer", "answer", "response"]): said}, turns_of(
        talk
    )


def prompt_completion(rng: random.Random) -> Written:
    talk = conversation(rng, rng.randint(1, 2))
    turns = turns_of(talk)
    if len(turns) == 2 and rng.random() < 0.6:
        return {"prompt": turns[0].content, rng.choice(["completion", "response"]): turns[1].content}, turns
    listed = [message(rng, turn, "role", "content") for turn in turns]
    completion: Any = listed[-1:] if rng.random() < 0.7 else turns[-1].content
    turns = [Turn(t.role, t.content, trained=t.role != "assistant") for t in turns[:-1]] + turns[-1:]
    return {"prompt": listed[:-1], "completion": completion}, turns


def message(rng: random.Random, turn: Turn, role_key: str, text_key: str) -> dict[str, Any]:
    names = {
        "system": ["system", "developer"],
        "user": ["user", "human", "User"],
        "assistant": ["assistant", "gpt", "bot", "model"],
        "tool": ["tool", "function", "observation", "ipython"],
    }
    content: Any = turn.content
    if rng.random() < 0.2:
        at = rng.randint(0, len(content))
        content = [
            {"type": "text", "text": content[:at]},
            rng.choice([content[at:], {"type": "text", "text": content[at:]}]),
        ]
    made = {role_key: rng.choice(names[turn.role]), text_key: content}
    if rng.random() < 0.2:
        made[rng.choice(["name", "tool_calls", "weight", "reasoning"])] = None
    return made


TOOLS = [{"type": "function", "function": {"name": "f", "description": "It.", "parameters": {"type": "object"}}}]


def conversations(rng: random.Random) -> Written:
    key, role_key, text_key = rng.choice([("messages", "role", "content"), ("conversations", "from", "value")])
    talk = conversation(rng, rng.randint(1, 3))
    turns = turns_of(talk)
    made = [message(rng, turn, role_key, text_key) for turn in turns]
    row: dict[str, Any] = {key: made}
    if talk[0] and rng.random() < 0.5:
        row["system"] = talk[0]
        del made[0]
    offset = len(turns) - len(made)
    for index, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        if rng.random() < 0.2:
            made[index - offset] |= rng.choice([{"weight": 0}, {"train": False}, {"weight": 0.0, "train": False}])
            turns[index] = Turn("assistant", turn.content, trained=False)
        elif rng.random() < 0.2:
            made[index - offset] |= {rng.choice(["thinking", "reasoning", "reasoning_content"]): "Well."}
            turns[index] = Turn("assistant", turn.content, reasoning="Well.")
    if rng.random() < 0.2:
        # A call and its result before the last answer.
        call = {"name": "f", "arguments": rng.choice([{"x": 1}, '{"x": 1}'])}
        made[-1:-1] = [
            {
                role_key: "assistant",
                text_key: None,
                "tool_calls": [rng.choice([call, {"type": "function", "function": call}])],
            },
            {role_key: "tool", text_key: "5", "tool_call_id": "c"},
        ]
        called = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
        turns[-1:-1] = [Turn("assistant", "", tool_calls=(called,)), Turn("tool", "5", extra={"tool_call_id": "c"})]
        if rng.random() < 0.5:
            row["tools"] = rng.choice([TOOLS, json.dumps(TOOLS)])
    return row, turns


def text(rng: random.Random) -> Written:
    said = words(rng, 30)
    return {"text": said}, [Turn("assistant", said)]


WRITERS: dict[str, Callable[[random.Random], Written]] = {
    "alpaca": alpaca,
    "question_answer": question_answer,
    "prompt_completion": prompt_completion,
    "conversations": conversations,
    "text": text,
}
