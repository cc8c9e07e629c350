"""examples/task and examples/language: right answers are right, no held-out question was trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.items import Item, items_of_file
from neuralchat.evaluation.scoring.scorers import RIGHT

EXAMPLES = Path(__file__).parents[3] / "examples"
# Of shared words; "Wie viel kostet der Eintritt?" and "Wie viel kostet ein Eintritt?" share four of six.
TOO_LIKE = 0.7


def rows(name: str, part: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((EXAMPLES / name / f"{part}.json").read_text(encoding="utf-8"))
    return found


def words(row: dict[str, Any]) -> set[str]:
    return set(re.findall(r"\w+", (row["input"] or row["instruction"]).lower()))


def is_right(item: Item, text: str) -> bool:
    return bool(RIGHT.score(item, Answered(text, 1, True)))


@pytest.mark.parametrize(("name", "train", "held_out"), [("task", 72, 24), ("language", 96, 12)])
def test_each_set(name: str, train: int, held_out: int) -> None:
    trained, asked = rows(name, "train"), rows(name, "heldout")
    assert (len(trained), len(asked)) == (train, held_out)
    assert {row["output"] for row in asked} == {row["output"] for row in trained}
    items = items_of_file(str(EXAMPLES / name / "heldout.json"))
    assert all(RIGHT.applies(item) and is_right(item, item.expected) for item in items)
    # No other answer of the set is right too.
    answers = {row["output"] for row in trained}
    assert [item.source for item in items if any(is_right(item, text) for text in answers - {item.expected})] == []
    every = [*trained, *asked]
    alike = [
        (one["input"] or one["instruction"], other["input"] or other["instruction"])
        for place, one in enumerate(every)
        for other in every[:place]
        if len(words(one) & words(other)) >= TOO_LIKE * len(words(one) | words(other)) and one in asked
    ]
    assert alike == []


def test_a_list_of_all_desks_is_not_right() -> None:
    item = items_of_file(str(EXAMPLES / "task" / "heldout.json"))[0]
    assert not is_right(item, "billing, delivery, returns or repair")
    assert is_right(item, "Billing.")
