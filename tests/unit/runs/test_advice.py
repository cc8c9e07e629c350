"""What a run says about the next one."""

from __future__ import annotations

from typing import Any

import pytest

from neuralchat.runs.advice import advice
from neuralchat.runs.results import RunResults


def training(*losses: float) -> list[dict[str, Any]]:
    return [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]


def held_out(*losses: float) -> list[dict[str, Any]]:
    return [{"step": step, "eval_loss": loss} for step, loss in enumerate(losses)]


def said(results: RunResults, metrics: list[dict[str, Any]], *, keeps_general: bool = True) -> list[str]:
    """What each piece of advice begins with."""
    return [text.partition(":")[0] for text in advice(results, metrics, keeps_general=keeps_general)]


def losses(before: float, after: float, **others: Any) -> RunResults:
    return RunResults(held_out_loss_before=before, held_out_loss_after=after, **others)


@pytest.mark.parametrize(
    ("results", "metrics", "expected"),
    [
        (losses(4.0, 1.0), training(3.0, 1.5, 1.0) + held_out(4.0, 1.2, 1.0), []),
        (losses(4.0, 1.5), training(3.0, 1.5, 1.0) + held_out(4.0, 1.0, 1.5), ["over-fit"]),
        # The weights of the best evaluation are the result: nothing is to be changed.
        (losses(4.0, 1.5, best_step=1), training(3.0, 1.0) + held_out(4.0, 1.0, 1.5), []),
        (losses(4.0, 3.9), training(4.0, 3.9), ["under-fit"]),
        (losses(4.0, 4.2), training(4.0, 2.0), ["the held-out loss has risen from 4.000 to 4.200"]),
        (losses(4.0, 2.0), training(4.0, 0.1), ["learned by heart"]),
        (losses(1.0, 0.15), training(1.0, 0.1), []),
        (RunResults(), training(4.0, 3.9), ["under-fit"]),
        (RunResults(), training(4.0, 1.0), []),
        (RunResults(), training(4.0), []),
        (RunResults(), [{"step": 1, "loss": float("nan")}, {"step": 2}], []),
    ],
)
def test_what_is_said_of_the_losses(results: RunResults, metrics: list[dict[str, Any]], expected: list[str]) -> None:
    assert said(results, metrics) == expected


@pytest.mark.parametrize(("kept", "expected"), [(7, ["forgotten"]), (8, [])])
def test_what_is_said_of_general_questions(kept: int, expected: list[str]) -> None:
    asked = tuple({"right_before": number < 10, "right_after": number < kept} for number in range(12))
    results = RunResults(general_samples=asked)
    assert said(results, []) == expected
    assert said(RunResults(general_samples=asked[:3]), []) == []


def test_the_remedy_is_a_flag_that_is_not_set_yet() -> None:
    asked = tuple({"right_before": True, "right_after": False} for _ in range(5))
    with_it, without = (advice(RunResults(general_samples=asked), [], keeps_general=kept)[0] for kept in (True, False))
    assert "--general_weight" in with_it
    assert "--keep_general true" in without
