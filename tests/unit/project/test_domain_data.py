"""examples/data and the seed tasks: how many, all unlike each other, nothing held out in training, no finding."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

import neuralchat
from neuralchat.cli import main
from neuralchat.data_tools.generating.rouge_index import RougeIndex
from neuralchat.data_tools.generating.seed_tasks import package_seeds, read_seed_tasks
from neuralchat.evaluation.facts import states_facts

DATA = Path(__file__).parents[3] / "examples/data"
TOO_ALIKE = 0.7
TRAIN, HELD_OUT, GENERAL = (
    json.loads((DATA / f"{name}.json").read_text(encoding="utf-8")) for name in ("train", "heldout", "general")
)
PACKAGE = Path(neuralchat.__file__).parent / "data/general"
SEED_ROWS = [json.loads(line) for line in package_seeds().read_text(encoding="utf-8").splitlines()]


def asked(row: dict[str, str]) -> str:
    return f"{row['instruction']} {row['input']}".strip()


def alike(questions: list[str], least: float) -> list[tuple[str, str]]:
    index = RougeIndex(least)
    found = []
    for text in questions:
        nearest = index.nearest(text)
        if nearest.place is not None:
            found.append((text, questions[nearest.place]))
        index.add(text)
    return found


def test_there_are_as_many_as_is_said() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert (len(TRAIN), len(HELD_OUT)) == (275, 50)
    assert len(TRAIN) + len(HELD_OUT) >= 300
    assert f"{len(TRAIN)} records" in readme
    assert f"{len(HELD_OUT)} questions" in readme
    assert f"{len(GENERAL)} records" in readme
    assert len(read_seed_tasks(package_seeds())) == len(SEED_ROWS) == 178 >= 175


def test_no_two_questions_are_alike() -> None:
    assert alike([asked(row) for row in [*TRAIN, *HELD_OUT, *GENERAL]], TOO_ALIKE) == []


def test_no_general_record_is_like_a_prompt_that_measures_or_is_rehearsed() -> None:
    index = RougeIndex(TOO_ALIKE)
    for name in ("measure", "checked", "rehearse"):
        for line in (PACKAGE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            index.add(f"{row['instruction']} {row.get('input', '')}".strip())
    assert [asked(row) for row in GENERAL if index.nearest(asked(row)).place is not None] == []


def test_no_two_seed_tasks_are_alike_and_both_subjects_and_kinds_are_there() -> None:
    assert alike([row["instruction"] for row in SEED_ROWS], TOO_ALIKE) == []
    for topic in ("business", "hardware"):
        kinds = [row["is_classification"] for row in SEED_ROWS if row["topic"] == topic]
        assert len(kinds) > 80
        assert 15 <= sum(kinds) <= len(kinds) / 3
    assert all(row["output"].strip() for row in SEED_ROWS)


def test_seed_tasks_are_no_training_data() -> None:
    seeds = [row["instruction"] for row in SEED_ROWS]
    index = RougeIndex(TOO_ALIKE)
    for text in seeds:
        index.add(text)
    questions = [asked(row) for row in [*TRAIN, *HELD_OUT]]
    assert [text for text in questions if index.nearest(text).place is not None] == []


def test_held_out_answers_state_their_facts() -> None:
    as_facts = [[tuple(fact) if isinstance(fact, list) else fact for fact in row["facts"]] for row in HELD_OUT]
    pairs = list(zip(HELD_OUT, as_facts, strict=True))
    assert [row for row, facts in pairs if not facts or not states_facts(row["output"], facts)] == []
    # Who repeats a question that names no choice is not right.
    assert sum(states_facts(asked(row), facts) for row, facts in pairs) <= 10


def test_training_does_not_go_subject_by_subject() -> None:
    hardware = [
        any(word in asked(row).lower() for word in ("memory", "cache", "drive", "bit", "server")) for row in TRAIN
    ]
    assert sum(one != other for one, other in pairwise(hardware)) > 50


@pytest.mark.parametrize(
    "words",
    [
        [str(DATA / "train.json"), "--validation_file", str(DATA / "heldout.json")],
        [str(DATA / "heldout.json")],
        [str(DATA / "general.json"), "--validation_file", str(DATA / "heldout.json")],
        [str(package_seeds())],
    ],
)
def test_data_check_finds_no_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", *words]) == 0
    assert ": 0 error(s), 0 warning(s)" in capsys.readouterr().out
