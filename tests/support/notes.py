"""What the library logs, kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from neuralchat.console import log


class Notes(logging.Handler):
    """Keeps the text of what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def kept_notes() -> Iterator[list[str]]:
    """Every message that the library logs within the block."""
    notes, level = Notes(), log.level
    log.addHandler(notes)
    log.setLevel(logging.INFO)
    try:
        yield notes.texts
    finally:
        log.removeHandler(notes)
        log.setLevel(level)
