"""runs/summary.py: how sure a difference is said to be."""

from __future__ import annotations

import pytest

from neuralchat.runs.summary import difference_text


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, ""),
        ({"difference": 0.9, "interval": (0.7, 1.0), "seen": True}, "; +90 points (95 %: +70 to +100 points)"),
        (
            {"difference": 0.0, "interval": (-0.2, 0.2), "seen": False},
            "; no difference can be seen (95 %: -20 to +20 points)",
        ),
        # Five questions of five: the interval is without zero, the exact test has p = 0.06.
        (
            {"difference": 1.0, "interval": (0.2, 1.0), "seen": False},
            "; too few questions to be sure (95 %: +20 to +100 points)",
        ),
    ],
)
def test_what_is_said_of_a_difference(found: dict | None, told: str) -> None:
    assert difference_text(found) == told
