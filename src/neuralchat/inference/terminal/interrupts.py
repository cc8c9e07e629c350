"""Ctrl-C while an answer comes, none of them lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_kept() -> Iterator[Callable[[], None]]:
    """Within, Ctrl-C raises KeyboardInterrupt as ever; what is yielded raises it again where that came to nothing.

    Python drops what is raised while an object is cleared up, and answers make and leave many objects.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        # Somebody else's business; signals of threads are always that.
        yield lambda: None
        return
    came = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    def raise_if_it_came() -> None:
        if came:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield raise_if_it_came
    finally:
        signal.signal(signal.SIGINT, before)
