"""The general prompts whose answers are checked by rule: the rules hold of good answers, and of no other ones."""

from __future__ import annotations

from collections import Counter

import pytest

from neuralchat.data.general_prompts import GeneralPrompt, checked_prompts, measured_prompts, rehearsal_prompts
from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.items import Item, check_problems, general_item, general_items
from neuralchat.evaluation.scoring.scorers import RIGHT

CHECKED = checked_prompts()


def is_right(item: Item, text: str) -> bool:
    return bool(RIGHT.score(item, Answered(text, 1, True)))


@pytest.mark.parametrize("prompt", CHECKED, ids=lambda prompt: prompt.instruction[:40])
def test_its_own_answer_is_right_and_an_echo_is_not(prompt: GeneralPrompt) -> None:
    item = general_item(prompt, 1)
    assert check_problems("row", {"checks": prompt.checks or None}) == []
    assert RIGHT.applies(item)
    assert is_right(item, prompt.answer)
    assert not is_right(item, "")
    assert not is_right(item, f"You ask: {item.question} Let me think about what that could mean")


def test_answers_to_others_are_seldom_right() -> None:
    items = [general_item(prompt, 1) for prompt in CHECKED]
    right = [is_right(item, other.answer) for item in items for other in CHECKED if other.instruction != item.question]
    assert sum(right) / len(right) < 0.06


def test_there_are_enough_of_all_that_may_be_lost() -> None:
    items = general_items(None)
    kinds = Counter(item.kind for item in items)
    assert len(items) >= 330
    for kind in ("format", "safety", "constraints", "arithmetic", "languages"):
        assert kinds[kind] >= 12, kind
    few = Counter(item.kind for item in general_items(120))
    assert few.keys() == kinds.keys()
    # A loss needs an answer that is written down.
    assert sum(item.record is not None for item in items) >= 50


def test_none_stands_in_another_file() -> None:
    others = {prompt.instruction.lower() for prompt in (*measured_prompts(), *rehearsal_prompts())}
    own = [prompt.instruction.lower() for prompt in CHECKED]
    assert len(set(own)) == len(own)
    assert others.isdisjoint(own)
