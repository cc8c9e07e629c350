"""A bar for work whose end has to be waited for: a download, a conversion."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from neuralchat.console.messages import is_first_rank, is_log_shown
from neuralchat.console.terminal import is_terminal


@contextmanager
def waiting(
    word: str, *, total_bytes: int | None = None, done_bytes: Callable[[], int] | None = None
) -> Iterator[None]:
    """Show on a terminal that `word` ("downloading") goes on; elsewhere, and in a library that is quiet, nothing.

    `done_bytes` is asked a few times per second how much there is of `total_bytes`; without them the bar says only that
    something happens. A thread draws: do not start processes by fork meanwhile.
    """
    if not (is_log_shown() and is_first_rank() and is_terminal(sys.stderr)):
        yield
        return
    from neuralchat.console.drawing import Screen, waiting_bar

    with waiting_bar(Screen(sys.stderr), word, total_bytes, done_bytes):
        yield
