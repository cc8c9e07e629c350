"""runs/differences.py: how differences and shares are written."""

from __future__ import annotations

import doctest
import math

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


def test_where_all_are_alike_there_is_no_interval() -> None:
    """Six means of one are no certainty that the next is."""
    assert differences.difference_text(1.0, (1.0, 1.0), 0.96, share=False, digits=3) == "+1.000"
    assert differences.known_ends((1.0, 1.0)) is differences.known_ends((-math.inf, 1.0)) is None
    assert differences.known_ends(None) is None
    assert differences.known_ends((0.5, 1.0)) == (0.5, 1.0)
