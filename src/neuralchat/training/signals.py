"""Signals while training: what the user or the system asks for, noted here and heeded between micro-batches."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any

from neuralchat.errors import NeuralChatError


class InterruptedTrainingError(NeuralChatError):
    """Training stopped because the user or the system asked for it; nothing is lost."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        # What a shell reports of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM.
        self.exit_status = 128 + number


class SignalWishes:
    """SIGINT and SIGTERM: finish the micro-batch, save, stop; a second one stops at once. SIGUSR1: save, go on.

    Use as a context; the signals go back to whoever had them before.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.save = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> SignalWishes:
        for number, handler in (
            (signal.SIGINT, self.ask_to_stop), (signal.SIGTERM, self.ask_to_stop), (signal.SIGUSR1, self.ask_to_save),
        ):  # fmt: skip
            self.previous[number] = signal.signal(number, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def ask_to_stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop is not None:
            raise KeyboardInterrupt
        self.stop = number
        print(
            f"\n{signal.Signals(number).name}: finishing this micro-batch, then saving; once more stops at once "
            "without saving",
            file=sys.stderr,
            flush=True,
        )

    def ask_to_save(self, _number: int, _frame: FrameType | None) -> None:
        self.save = True
