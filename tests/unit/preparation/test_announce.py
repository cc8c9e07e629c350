"""preparation/announce.py: numbers as people read them."""

from __future__ import annotations

import doctest

from neuralchat.preparation import announce


def test_doctests() -> None:
    outcome = doctest.testmod(announce)
    assert (outcome.attempted, outcome.failed) == (1, 0)
