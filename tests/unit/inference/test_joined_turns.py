"""inference/joined_turns.py: turns of one role in a row are one, for all that asks, and are told of."""

from __future__ import annotations

from typing import Any

import pytest
from support.notes import kept_notes
from support.small_models import make_tokenizer

from neuralchat.data.records import Turn
from neuralchat.data.templates.making import make_template
from neuralchat.inference.joined_turns import joined_turns
from neuralchat.inference.voice import Voice
from neuralchat.inference.window import Window

CALL: Any = {"type": "function", "function": {"name": "look_up", "arguments": {}}}


def turns_of(*said: str) -> list[Turn]:
    """
    >>> turns_of("user: a")
    [Turn(role='user', content='a', context='', trained=True, reasoning='', tool_calls=(), extra={})]
    """
    return [Turn(*text.split(": ", 1)) for text in said]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("turns", "expected", "added"),
    [
        (["user: a", "assistant: b", "user: c"], ["user: a", "assistant: b", "user: c"], []),
        (["user: a", "user: b", "user: c"], ["user: a\n\nb\n\nc"], [1, 2]),
        (["system: a", "system: b", "user: c"], ["system: a\n\nb", "user: c"], [1]),
        (["user: a", "assistant: ", "assistant: b", "user: c"], ["user: a", "assistant: b", "user: c"], [2]),
        (["assistant: b", "tool: 1", "tool: 2"], ["assistant: b", "tool: 1", "tool: 2"], []),
    ],
)
def test_turns_of_one_role_are_one(turns: list[str], expected: list[str], added: list[int]) -> None:
    joined = joined_turns(turns_of(*turns))
    assert joined.turns == turns_of(*expected)
    assert joined.added(len(turns)) == added
    assert joined_turns(joined.turns).turns == joined.turns


def test_words_and_then_a_call_are_one_turn() -> None:
    said, called = Turn("assistant", "Let me see."), Turn("assistant", "", tool_calls=(CALL,))
    assert joined_turns([said, called]).turns == [Turn("assistant", "Let me see.", tool_calls=(CALL,))]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Turn("user", "a", extra={"name": "anna"}), Turn("user", "b", extra={"name": "ben"})),
        (Turn("assistant", "", tool_calls=(CALL,)), Turn("assistant", "b")),
        (Turn("assistant", "a"), Turn("assistant", "b", reasoning="c")),
        (Turn("user", "a"), Turn("user", "b", context="c")),
    ],
)
def test_what_would_be_said_otherwise_stays(first: Turn, second: Turn) -> None:
    assert joined_turns([first, second]).turns == [first, second]


@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_all_ways_to_ask_agree_and_it_is_told(template: str) -> None:
    tokenizer = make_tokenizer()
    voice = Voice(tokenizer, make_template(template, tokenizer), Window(None, 1024))
    twice = turns_of("user: a", "assistant: b", "user: c", "user: d")
    once = turns_of("user: a", "assistant: b", "user: c\n\nd")
    prompt = voice.prompt(twice, 8)
    assert prompt.ids == voice.whole_prompt(twice) == voice.whole_prompt(once) == voice.prompt(once, 8).ids
    assert (prompt.joined, voice.prompt(once, 8).joined) == (1, 0)
    with kept_notes() as notes:
        voice.window.tell(prompt)
    assert "1 turn(s) follow one of the same role" in "\n".join(notes)
