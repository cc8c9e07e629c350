"""A question and its answer in fields of their own, or a text alone -> Turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from neuralchat.data.records.conversations import SYSTEM, order_problem, turns_of
from neuralchat.data.records.record import Turn
from neuralchat.data.records.values import Fields, is_absent, is_text_parts, summary_of, text_problem


def pair(fields: Fields, asked: Sequence[str], context: Sequence[str], answered: Sequence[str]) -> list[Turn]:
    """An optional system text, earlier pairs, then the question (with its context) and the answer."""
    question, answer = fields.required_text(asked), fields.required_text(answered)
    material = fields.optional_text(context) if context else ""
    system = fields.optional_text(SYSTEM)
    return [
        *([Turn("system", system)] if system else []),
        *history(fields),
        Turn("user", question, material),
        Turn("assistant", answer),
    ]


def history(fields: Fields) -> list[Turn]:
    """Turns of `history`: a list of [question, answer]."""
    name, listed = fields.optional_list(("history",), "a list of [question, answer] pairs")
    turns: list[Turn] = []
    for index, couple in enumerate(listed):
        if not isinstance(couple, list | tuple) or len(couple) != 2:
            fields.found.problem(f"field '{name}[{index}]' must be [question, answer], found {summary_of(couple)}")
            return []
        problems = [text_problem(text, f"{name}[{index}][{place}]") for place, text in enumerate(couple)]
        if any(problems):
            fields.found.problem(next(filter(None, problems)))
            return []
        turns += [Turn("user", couple[0]), Turn("assistant", couple[1])]
    return turns


def prompt_completion(fields: Fields) -> list[Turn]:
    """Texts, or lists of turns; of these only the completion's answers are learned."""
    if not any(is_turns(fields.values.get(name)) for name in ("prompt", "completion")):
        return pair(fields, ("prompt",), (), ("completion", "response"))
    for name in ("prompt", "completion"):
        if is_absent(fields.values.get(name)):
            fields.found.problem(f"field '{name}' must be a list of turns, found {summary_of(fields.values.get(name))}")
    if fields.found.problems:
        return []
    system = fields.optional_text(SYSTEM)
    prompt = side(fields, "prompt", "user")
    completion = side(fields, "completion", "assistant")
    turns = [replace(turn, trained=False) if turn.role == "assistant" else turn for turn in prompt] + completion
    turns = [Turn("system", system), *turns] if system else turns
    if not fields.found.problems:
        fields.found.problem(order_problem([turn.role for turn in turns], "turns"))
    return turns


def is_turns(value: Any) -> bool:
    return isinstance(value, list) and not is_text_parts(value)


def side(fields: Fields, name: str, role: str) -> list[Turn]:
    if isinstance(fields.values[name], str) or is_text_parts(fields.values[name]):
        text = fields.required_text((name,))
        return [Turn("user" if role == "user" else "assistant", text)]
    return turns_of(fields, name)


def text(fields: Fields) -> list[Turn]:
    """A text that is learned whole."""
    return [Turn("assistant", fields.required_text(("text",)))]
