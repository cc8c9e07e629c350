"""examples/style: every answer is in the persona's style, and no held-out question was trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from neuralchat.evaluation.facts import states_facts

STYLE = Path(__file__).parents[3] / "examples/style"
ANSWERS = [
    record["output"] for name in ("train", "heldout") for record in json.loads((STYLE / f"{name}.json").read_text())
]


def in_style(answer: str) -> bool:
    """The visitor's address, one or two sentences of at most 25 words, and the closing line."""
    *said, closing = answer.split("\n")
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(said))
    short = len(sentences) <= 2 and all(len(sentence.split()) <= 25 for sentence in sentences)
    return len(said) == 1 and closing == "Mind the tide." and "traveller" in said[0].lower() and short


def test_every_answer_is_in_style() -> None:
    assert len(ANSWERS) == 200
    assert [answer for answer in ANSWERS if not in_style(answer)] == []


@pytest.mark.parametrize(
    "answer",
    [
        "It is Oslo.\nMind the tide.",
        "It is Oslo, traveller. Mind the tide.",
        "It is Oslo, traveller.\nMind the tides.",
        "Yes, traveller. It is Oslo. It lies in Norway.\nMind the tide.",
    ],
)
def test_an_answer_out_of_style_is_seen(answer: str) -> None:
    assert not in_style(answer)


def test_held_out_answers_state_their_facts_and_their_questions_are_new() -> None:
    train, heldout = (json.loads((STYLE / f"{name}.json").read_text()) for name in ("train", "heldout"))

    def asked(record: dict[str, str]) -> str:
        return " ".join(re.findall(r"\w+", (record["instruction"] + " " + record["input"]).lower()))

    assert all(states_facts(record["output"], record["facts"]) for record in heldout)
    assert len({asked(record) for record in train + heldout}) == 200
    # The museum's answers are those that were trained on.
    museum = [record["output"] for record in heldout if len(record["facts"]) > 2]
    assert len(museum) == 12
    assert set(museum) <= {record["output"] for record in train}
