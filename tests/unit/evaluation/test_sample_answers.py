"""evaluation/sample_answers.py: how sure it is that a run's own questions went better, and how that is told."""

from __future__ import annotations

from math import comb
from typing import Any

import pytest

from neuralchat.evaluation.sample_answers import difference_of
from neuralchat.runs.summary import difference_of_answers


def samples(**counts: int) -> list[dict[str, Any]]:
    marks = {"kept": (True, True), "lost": (True, False), "gained": (False, True), "wrong": (False, False)}
    return [
        dict(zip(("right_before", "right_after"), marks[name], strict=True))
        for name, n in counts.items()
        for _ in range(n)
    ]


def test_the_difference_of_right_answers_has_an_interval_and_an_exact_p() -> None:
    found = difference_of([*samples(kept=1, lost=1, gained=9, wrong=9), {"question": "no facts"}])
    assert found is not None
    assert (found["questions"], found["difference"]) == (20, 0.4)
    # Of 10 that changed, 9 for the better: two-sided, by counting.
    assert found["p"] == pytest.approx(2 * (comb(10, 0) + comb(10, 1)) / 2**10)
    # Wilson's interval of 2 of 20, from a table (Newcombe 1998's method 3).
    assert found["before_interval"] == pytest.approx([0.0279, 0.3010], abs=1e-4)
    low, high = found["interval"]
    assert low < 0.4 < high
    assert found["seen"]
    assert difference_of_answers(found) == f"; +40 points ({100 * low:+.0f} to {100 * high:+.0f}, 95 %), p 0.021"


def test_what_is_said_is_what_interval_and_p_say() -> None:
    """Five of five gained: the exact p is 0.0625, and Bonett and Price's interval alone is +20 to +100 points."""
    found = difference_of(samples(gained=5))
    assert found is not None
    assert (found["p"], found["seen"], found["interval"]) == (0.0625, False, [0.0, 1.0])
    for total in (3, 8, 20, 40):
        for lost in range(total + 1):
            for gained in range(total + 1 - lost):
                found = difference_of(samples(lost=lost, gained=gained, kept=total - lost - gained))
                assert found is not None
                low, high = found["interval"]
                assert found["seen"] == (found["p"] < 0.05) == (not low <= 0 <= high)
                assert low <= found["difference"] <= high
                assert found["p"] >= min(
                    1.0, 2 * sum(comb(lost + gained, k) for k in range(min(lost, gained) + 1)) / 2 ** (lost + gained)
                )


def test_what_may_be_chance_is_said_to_be_no_difference() -> None:
    found = difference_of(samples(kept=3, gained=2, wrong=1))
    assert found is not None
    assert not found["seen"]
    assert difference_of_answers(found).startswith("; no difference can be seen")
    assert difference_of([{"question": "a"}]) is None
    assert difference_of_answers(None) == ""
