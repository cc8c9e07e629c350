"""One server for the tests of a module, with a scripted engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.live_server import LiveServer, live_server


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as running:
        yield running
