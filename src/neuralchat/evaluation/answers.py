"""Items and a chatbot -> what it answers to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from neuralchat.evaluation.items import Item
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling


class Answered(NamedTuple):
    """`finished`: the model ended by itself, it was not cut at --max_new_tokens."""

    text: str
    tokens: int
    finished: bool


def askable(items: Sequence[Item], bot: Chatbot, sampling: Sampling) -> tuple[list[int], dict[int, str]]:
    """(places of the items that can be asked, by place why another cannot be)."""
    reasons = {
        place: reason
        for place, item in enumerate(items)
        if item.turns and (reason := bot.question_problem(item.turns, sampling)) is not None
    }
    return [place for place, item in enumerate(items) if item.turns and place not in reasons], reasons


def answers_to(
    items: Sequence[Item],
    places: Sequence[int],
    bot: Chatbot,
    sampling: Sampling,
    told: Callable[[int], None] = lambda _count: None,
) -> dict[int, Answered]:
    """By the place of the item, many answered at a time; `told` as `Chatbot.answers` has it."""
    found = bot.answers([items[place].turns for place in places], sampling, told)
    return {
        place: Answered(answer.text, len(answer.token_ids), answer.finished)
        for place, answer in zip(places, found, strict=True)
    }
