"""evaluation/progress.py: what is coming is told before, and the time that is left after the first answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.chatbots.silent_bot import QUESTIONS

from neuralchat.evaluation.progress import AnswersToCome


def test_the_time_left_is_told_with_the_first_and_then_once_a_minute(said: list[str]) -> None:
    now = [0.0]
    progress = AnswersToCome(lambda: now[0])
    progress.expect(100, 2, 64)
    assert said == ["100 questions to each of 2 models: 200 answers of at most 64 tokens"]
    # Loading, which is no answering.
    now[0] = 500.0
    progress.begin()
    for second in (510.0, 520.0, 560.0, 575.0):
        now[0] = second
        progress.answered(10)
    # 190 at a second each; 170 at 60 / 30 seconds each.
    assert said[1:] == [
        "10 of 200 answered; the others take about 3 minutes",
        "40 of 200 answered; the others take about 5 minutes",
    ]


def test_what_is_short_has_no_forecast(said: list[str]) -> None:
    now = [0.0]
    progress = AnswersToCome(lambda: now[0])
    progress.expect(1, 1, 8)
    progress.begin()
    now[0] = 100.0
    progress.answered(1)
    assert said == ["1 question: 1 answer of at most 8 tokens"]


def test_eval_tells_how_many_answers_come(run_evaluate: Callable[..., Any], said: list[str]) -> None:
    run_evaluate(QUESTIONS, ["8", "é"], ["no", "é"], "--max_new_tokens", "9")
    assert "2 questions to each of 2 models: 4 answers of at most 9 tokens" in said
    said.clear()
    run_evaluate(QUESTIONS, ["8", "é"], ["no", "é"], "--max_new_tokens", "9", "--tuned_only")
    assert "2 questions: 2 answers of at most 9 tokens" in said
