"""What the tests of the console share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from neuralchat.console import log_shown
from neuralchat.console.messages import HANDLER


@pytest.fixture
def shown_log() -> Iterator[None]:
    """The log is shown on standard error during the test, as the command line does it."""
    with log_shown():
        yield
    assert HANDLER.screen is None
