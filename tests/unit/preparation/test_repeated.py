"""preparation/repeated.py: the layers that have LoRA, by the names of their weights. How runs differ in them:
tests/training/test_earlier_versions.py.
"""

from __future__ import annotations

import doctest

from neuralchat.preparation import repeated


def test_doctests() -> None:
    outcome = doctest.testmod(repeated)
    assert outcome.attempted >= 1
    assert outcome.failed == 0
