"""Every way to score an answer, a row each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.facts import states_facts
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.scoring.text_scores import (
    ends_with_number,
    is_json,
    is_refusal,
    normalised,
    repetition,
    rouge_l,
)


@dataclass(frozen=True)
class Scorer:
    """`applies` to items that it can score. `share`: it says yes or no, so that answers are counted; else a mean.

    `better`: which way a difference is to the good; empty where it is neither good nor bad.
    """

    name: str
    title: str
    applies: Callable[[Item], bool]
    score: Callable[[Item, Answered], float]
    share: bool = False
    better: Literal["higher", "lower", ""] = "higher"


def checks_kept(item: Item, answer: Answered) -> float:
    """Whether all that its item asks of a right answer holds."""
    return all(scorer.score(item, answer) for scorer in CHECKING if scorer.applies(item))


def asked_of(item: Item) -> bool:
    return bool(item.turns)


def has_expected(item: Item) -> bool:
    return bool(item.turns and item.expected)


CHECKING = (
    Scorer(
        "facts", "states the facts", lambda i: bool(i.facts), lambda i, a: states_facts(a.text, i.facts), share=True
    ),
    Scorer(
        "number",
        "ends with the number",
        lambda i: "number" in i.checks,
        lambda i, a: ends_with_number(a.text, i.checks["number"]),
        share=True,
    ),
    Scorer("json", "is JSON", lambda i: "json" in i.checks, lambda i, a: is_json(a.text, i.checks["json"]), share=True),
    Scorer(
        "pattern",
        "matches the pattern",
        lambda i: "pattern" in i.checks,
        lambda i, a: re.search(i.checks["pattern"], a.text.strip()) is not None,
        share=True,
    ),
)
RIGHT = Scorer("right", "right answers", lambda i: bool(i.facts or i.checks), checks_kept, share=True)
SCORERS: tuple[Scorer, ...] = (
    RIGHT,
    *CHECKING,
    Scorer("exact", "exact match", has_expected, lambda i, a: a.text.strip() == i.expected.strip(), share=True),
    Scorer(
        "normalised",
        "normalised match",
        has_expected,
        lambda i, a: normalised(a.text) == normalised(i.expected),
        share=True,
    ),
    Scorer("rouge_l", "similarity (ROUGE-L)", has_expected, lambda i, a: rouge_l(i.expected, a.text)),
    Scorer("stopped", "ended by itself", asked_of, lambda _, a: a.finished, share=True),
    Scorer("repetition", "repetition", asked_of, lambda _, a: repetition(a.text), better="lower"),
    Scorer("refusals", "refusals (by wording)", asked_of, lambda _, a: is_refusal(a.text), share=True, better=""),
    Scorer("tokens", "answer tokens", asked_of, lambda _, a: a.tokens, better=""),
)
