"""`neuralchat eval` of models that cannot be loaded or measured, and what is kept in spite of it."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.chatbots.silent_bot import QUESTIONS, SilentBot

from neuralchat.errors import AdapterError, ArgumentsError, DataError
from neuralchat.evaluation import loss, outcomes
from neuralchat.evaluation.systems import Candidate, Laboratory, Loading, check_each, checked_laboratory

Evaluate = Callable[..., tuple[int, SilentBot]]
NAMED = [Candidate(name, name) for name in ("first", "second", "third")]


def losses(monkeypatch: pytest.MonkeyPatch, numbers: Sequence[float]) -> None:
    """In the place of those of the model, one after the other."""
    waiting = list(numbers)
    monkeypatch.setattr(loss, "packed_loss_sum", lambda *_: waiting.pop(0))


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_left_out_and_counted(
    odd: float, run_evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    losses(monkeypatch, [1.0, odd, 3.0, 2.0, 2.0, 3.0])
    output = tmp_path / "a.json"
    run_evaluate([*QUESTIONS, QUESTIONS[0]], ["8", "é", "8"], ["no", "é", "8"], "--output", str(output))
    part = json.loads(output.read_text())["parts"][0]
    (row,) = [row for row in part["compared"] if row["measure"] == "loss"]
    assert row["questions"] == 2
    assert "loss" not in part["items"][1]["systems"]["run"]
    assert [text for text in said if "loss" in text] == [
        "run: the loss of 1 of 3 items is infinite or no number, and is left out"
    ]


def test_a_system_without_any_loss_is_told(
    run_evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    losses(monkeypatch, [math.nan, math.nan, 2.0, 2.0])
    output = tmp_path / "a.json"
    assert run_evaluate(QUESTIONS, ["8", "é"], ["no", "é"], "--output", str(output))[0] == 0
    part = json.loads(output.read_text())["parts"][0]
    assert "loss" not in {row["measure"] for row in part["compared"]}
    told = "run: the loss of all 2 items is infinite or no number, so that it has none; its training may have diverged"
    assert told in said


def test_where_the_figures_fail_the_answers_are_written(
    run_evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr(outcomes, "compare_pairs", failing)
    output, page = tmp_path / "a.json", tmp_path / "a.html"
    with pytest.raises(OverflowError, match="too large"):
        run_evaluate(QUESTIONS, ["8", "é"], ["no", "?"], "--output", str(output), "--report", str(page))
    items = json.loads(output.read_text())["parts"][0]["items"]
    assert [item["systems"]["run"]["answer"] for item in items] == ["8", "é"]
    assert [item["systems"]["base"]["answer"] for item in items] == ["no", "?"]
    assert all(item["systems"]["run"]["loss"] > 0 for item in items)
    assert f"the figures could not be computed; {output} holds the answers without them" in said
    assert not page.exists()


class Weights:
    """What takes the memory of a model."""


def test_what_fails_is_not_held_in_memory() -> None:
    seen: list[weakref.ref[Weights]] = []

    def inner(weights: Weights) -> None:
        raise ValueError(f"of {type(weights).__name__}")

    def check(named: Candidate) -> None:
        assert [found() for found in seen] == [None] * len(seen)
        weights = Weights()
        seen.append(weakref.ref(weights))
        try:
            inner(weights)
        except ValueError as error:
            raise AdapterError(f"{named.name} is broken") from error

    with pytest.raises(ArgumentsError, match=r"(?s)first is broken.*second is broken.*third is broken"):
        check_each(NAMED, check)
    assert len(seen) == 3


def test_what_ends_the_evaluation_of_all_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def laboratory_for(_bot: Any) -> Laboratory:
        raise DataError("the held-out records are not what they were")

    monkeypatch.setattr(Loading, "load", lambda _, path: loaded.append(path))
    with pytest.raises(DataError, match=r"^the held-out records are not what they were$"):
        checked_laboratory(NAMED, Loading(), laboratory_for)
    assert loaded == ["first"]


@pytest.mark.parametrize("points", ["0", "1e-200", "0.009", "nan", "101"])
def test_a_difference_so_small_is_refused(points: str, run_evaluate: Evaluate) -> None:
    with pytest.raises(ArgumentsError, match=r"--detect is .*; allowed is 0\.01 to 100 points"):
        run_evaluate(QUESTIONS, [], None, "--detect", points)


def test_the_smallest_difference_that_is_allowed_is_taken(run_evaluate: Evaluate) -> None:
    assert run_evaluate(QUESTIONS, ["8", "é"], ["no", "é"], "--detect", "0.01")[0] == 0
