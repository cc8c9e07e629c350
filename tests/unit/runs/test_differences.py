"""runs/differences.py: how differences and shares are written."""

from __future__ import annotations

import doctest

from neuralchat.runs import differences


def test_doctests() -> None:
    outcome = doctest.testmod(differences)
    assert outcome.attempted >= 6
    assert outcome.failed == 0


def test_an_end_that_is_not_zero_is_not_shown_as_zero() -> None:
    """A difference is claimed beside it, or is not."""
    told = differences.difference_text(0.01, (0.0004, 0.02), 0.96, share=True, digits=1)
    assert told == "+1.0 points (+0.04 to +2.0, 96 %)"
    assert differences.difference_text(0.01, (0.0, 0.02), 0.96, share=True, digits=1).endswith("(0.0 to +2.0, 96 %)")
