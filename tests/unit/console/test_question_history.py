"""console/question_history.py: questions of earlier sessions, for their owner alone."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from neuralchat.console.question_history import KEPT_QUESTIONS, LONGEST_KEPT, QuestionHistory


@pytest.fixture
def file() -> Path:
    return Path(os.environ["NEURALCHAT_HOME"]) / "chat_history.jsonl"


def test_questions_are_kept_for_their_owner_alone(file: Path) -> None:
    before = os.umask(0o002)
    try:
        history = QuestionHistory()
        for question in (
            "one",
            "two\nlines \u2028 <|im_end|>",
            "two\nlines \u2028 <|im_end|>",
            "x" * (LONGEST_KEPT + 1),
        ):
            history.add(question)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert QuestionHistory().questions == ["one", "two\nlines \u2028 <|im_end|>"]


def test_a_file_that_others_could_read_is_closed_to_them(file: Path) -> None:
    file.write_text('"one"\n')
    file.chmod(0o644)
    assert QuestionHistory().questions == ["one"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_damage_and_length_are_outlived(file: Path) -> None:
    lines = ["not json", '{"a": 1}', "[" * 10_000, *(json.dumps(f"q{number}") for number in range(2 * KEPT_QUESTIONS))]
    file.write_text("\n".join(lines) + "\n" + '"half')
    file.chmod(0o600)
    questions = QuestionHistory().questions
    assert questions == [f"q{number}" for number in range(KEPT_QUESTIONS, 2 * KEPT_QUESTIONS)]
    # And the file does not grow for ever.
    assert len(file.read_text().splitlines()) == KEPT_QUESTIONS


def test_where_nothing_can_be_kept_it_is_told_once(file: Path, said: list[str]) -> None:
    file.mkdir()
    history = QuestionHistory()
    history.add("one")
    history.add("two")
    assert history.questions == ["one", "two"]
    assert len(said) == 1
    assert said[0].startswith("questions are not kept for the next time")
