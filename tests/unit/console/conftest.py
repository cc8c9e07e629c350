"""What the tests of the console share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from neuralchat.console import log, show_log
from neuralchat.console.messages import HANDLER


@pytest.fixture
def shown_log() -> Iterator[None]:
    """The log is shown on standard error during the test, as the command line does it."""
    level = log.level
    show_log()
    yield
    log.removeHandler(HANDLER)
    log.setLevel(level)
    assert HANDLER.screen is None
