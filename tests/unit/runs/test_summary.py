"""runs/summary.py: how sure a difference is said to be."""

from __future__ import annotations

import pytest

from neuralchat.runs.summary import difference_of_answers


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, ""),
        (
            {"difference": 0.9, "interval": (0.7, 1.0), "seen": True, "p": 0.0001},
            "; +90 points (+70 to +100, 95 %), p <0.001",
        ),
        (
            {"difference": 0.01, "interval": (0.004, 0.03), "seen": True, "p": 0.02},
            "; +1 points (+0.4 to +3, 95 %), p 0.020",
        ),
        # Five questions of five.
        (
            {"difference": 1.0, "interval": (0.0, 1.0), "seen": False, "p": 0.0625},
            "; no difference can be seen: +100 points (0 to +100, 95 %), p 0.062",
        ),
        # As older versions wrote them: the interval is without zero, the exact test has p = 0.06.
        (
            {"difference": 1.0, "interval": (0.2, 1.0), "seen": False},
            "; too few questions to be sure: +100 points (+20 to +100, 95 %)",
        ),
    ],
)
def test_what_is_said_of_a_difference(found: dict | None, told: str) -> None:
    assert difference_of_answers(found) == told
