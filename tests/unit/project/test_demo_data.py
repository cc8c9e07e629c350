"""examples/demo: the questions teach true things, and no held-out question was trained on."""

from __future__ import annotations

import argparse
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from neuralchat import cli
from neuralchat.config.command.legacy_flags import LEGACY_FLAGS
from neuralchat.config.schema import SCHEMA
from neuralchat.data.records import RecordReport, read_records
from neuralchat.evaluation.facts import states_facts
from neuralchat.runs.directory import RUN_FILES

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "examples" / "demo"
TRAIN: list[dict[str, Any]] = json.loads((DEMO / "train.json").read_text(encoding="utf-8"))
HELD_OUT: list[dict[str, Any]] = json.loads((DEMO / "heldout.json").read_text(encoding="utf-8"))
ANSWERS = sorted({row["output"] for row in [*TRAIN, *HELD_OUT]})


def question(row: dict[str, Any]) -> str:
    return f"{row['instruction']} {row.get('input') or ''}".strip()


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w-]+", text.lower()))


def likeness(a: set[str], b: set[str]) -> float:
    """Jaccard: shared words / all words."""
    return len(a & b) / len(a | b)


def test_likeness() -> None:
    assert likeness(words("Which flag is it?"), words("which flag was IT")) == 3 / 5


@pytest.mark.parametrize(("name", "rows", "least"), [("train.json", TRAIN, 360), ("heldout.json", HELD_OUT, 40)])
def test_records_are_valid(name: str, rows: list[dict[str, Any]], least: int) -> None:
    report = RecordReport()
    records = list(read_records([DEMO / name], report))
    assert report.problems == []
    assert report.ignored_fields == set()
    assert len(records) == len(rows) >= least


def test_no_question_is_asked_twice() -> None:
    asked = [" ".join(re.findall(r"[\w-]+", question(row).lower())) for row in [*TRAIN, *HELD_OUT]]
    assert sorted(text for text in set(asked) if asked.count(text) > 1) == []


def test_no_held_out_question_is_nearly_one_of_training() -> None:
    trained = [(row, words(question(row))) for row in TRAIN]
    near = [
        (question(held_out), question(row))
        for held_out in HELD_OUT
        for row, known in trained
        if likeness(words(question(held_out)), known) >= 0.6
    ]
    assert near == []


def test_every_held_out_answer_states_its_facts() -> None:
    assert [row for row in HELD_OUT if not row["facts"] or not states_facts(row["output"], row["facts"])] == []


def test_no_other_answer_states_the_facts() -> None:
    """Otherwise a wrong answer would be counted as right."""
    others = {
        row["output"]: [a for a in ANSWERS if a != row["output"] and states_facts(a, row["facts"])] for row in HELD_OUT
    }
    # Who is told to add -p to `neuralchat chat` has been told how to talk to the model.
    assert others.pop("Run neuralchat chat with the run directory to talk to the model.") == [
        "Add -p and the question to neuralchat chat to get a single answer."
    ]
    assert {answer: found for answer, found in others.items() if found} == {}


def test_every_held_out_answer_was_trained() -> None:
    trained = {row["output"] for row in TRAIN}
    assert [row["output"] for row in HELD_OUT if row["output"] not in trained] == []


@cache
def known_flags() -> set[str]:
    flags = {f"--{name}" for name in (*SCHEMA.arguments, *SCHEMA.negations)}
    commands = next(a for a in cli.make_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    for parser in commands.values():
        flags |= {option for action in parser._actions for option in action.option_strings}
    return flags | {f"--{name}" for name in LEGACY_FLAGS}


@cache
def repository_files() -> set[str]:
    # Only places that are the project's own: neither installed packages nor what a run wrote.
    places = [ROOT.glob("*"), *((ROOT / name).rglob("*") for name in ("src", "examples", "docs", "scripts"))]
    return {path.name for found in places for path in found if path.is_file()}


def mentioned(pattern: str) -> set[str]:
    found = {match for answer in ANSWERS for match in re.findall(pattern, answer)}
    assert found, f"no answer holds {pattern}: the test would check nothing"
    return found


def test_every_flag_in_an_answer_exists() -> None:
    assert sorted(mentioned(r"(?<![\w-])--?[A-Za-z][\w-]*") - known_flags()) == []


def test_every_verb_in_an_answer_exists() -> None:
    assert sorted(mentioned(r"\bneuralchat ([a-z]+)") - set(cli.VERBS)) == []


def test_every_make_target_in_an_answer_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert sorted(mentioned(r"\b[Rr]un make ([a-z-]+)") - targets) == []
    assert {"demo", "setup", "test", "check"} <= targets


def test_every_file_in_an_answer_exists() -> None:
    files = mentioned(r"[\w./-]+\.(?:jsonl?|py|html|toml|md)\b")
    assert sorted(name for name in files if Path(name).name not in {*RUN_FILES, *repository_files()}) == []


# What an answer says about a default, and the flag whose default it is.
DEFAULT_OF_FLAG = re.compile(r"(--\w+).*the default is ([\w.]+\w)")


def test_every_default_in_an_answer_is_right() -> None:
    stated = {match.groups() for answer in ANSWERS if (match := DEFAULT_OF_FLAG.search(answer))}
    assert len(stated) >= 5
    assert {(flag, str(SCHEMA.arguments[flag.removeprefix("--")].default)) for flag, _ in stated} == stated


def test_every_new_name_of_an_old_flag_is_right() -> None:
    stated = {pair for answer in ANSWERS for pair in re.findall(r"old flag --(\w+) becomes --(\w+)", answer)}
    assert len(stated) >= 3
    assert {(old, LEGACY_FLAGS[old].today) for old, _ in stated} == stated
