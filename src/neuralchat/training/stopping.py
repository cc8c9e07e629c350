"""Why training may end before its end: signals, memory, numbers that are none; and what the user is told."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import FrameType, TracebackType
from typing import Any

from neuralchat.console import is_log_shown, put
from neuralchat.errors import EXIT_OUT_OF_MEMORY, NeuralChatError, is_out_of_memory


class TrainingError(NeuralChatError):
    """Training that cannot go on, such as a loss that is not a number."""

    exit_status = 3


class OutOfMemoryError(NeuralChatError):
    """Memory ran out; a smaller --micro_batch_tokens helps."""

    exit_status = EXIT_OUT_OF_MEMORY


class InterruptedTrainingError(NeuralChatError):
    """Training stopped because the user or the system asked for it; nothing is lost."""

    is_fault = False

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        # What a shell reports of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM.
        self.exit_status = 128 + number


class OutOfTimeError(NeuralChatError):
    """The time of --max_hours is over; nothing is lost."""

    is_fault = False

    # EX_TEMPFAIL of sysexits.h: the same command, later, goes on.
    exit_status = 75


class FailureKind(IntEnum):
    """Why a step is given up; the places of a vector that ranks add up."""

    STOP = 0
    NONFINITE = 1
    MEMORY = 2


@dataclass(frozen=True)
class Failure:
    """What this rank met in a step. `sources` name the records concerned."""

    kind: FailureKind
    what: str = ""
    sources: Sequence[str] = ()


class StepAbandonedError(Exception):
    """A step, or an evaluation, is left before it changed anything; state is that of the last finished step."""

    def __init__(self, kind: FailureKind, what: str = "") -> None:
        super().__init__(kind.name)
        self.kind = kind
        self.what = what


def memory_failure(error: BaseException) -> Failure:
    """Of an error that says so; any other is raised again."""
    if not is_out_of_memory(error):
        raise error
    return Failure(FailureKind.MEMORY, (str(error).splitlines() or [type(error).__name__])[0])


def nonfinite_message(failure: Failure, step: int) -> str:
    records = f"{', '.join(failure.sources[:8])}{' ...' if len(failure.sources) > 8 else ''}"
    return (
        f"{failure.what} at step {step}, before any weight was changed by it; the records are: {records}. "
        "Lower --learning_rate, look at these records, or leave such steps out with --on_nonfinite skip."
    )


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP: finish the micro-batch, save, stop. SIGUSR1: save, go on.

    A second SIGINT or SIGTERM stops at once. SIGHUP is what a terminal that is closed sends, often twice, and with it
    SIGTERM at the end of a session: none of that is impatience. Where it is ignored, as by nohup, it stays so.

    Use as a context; the signals go back to whoever had them before. Signals belong to the main thread: in another
    one, as a notebook may have, nothing is changed.
    """

    def __init__(self) -> None:
        # The signal that asked to stop, or None.
        self.stop: int | None = None
        self.save = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            handlers = {
                signal.SIGINT: self.ask_to_stop,
                signal.SIGTERM: self.ask_to_stop,
                signal.SIGHUP: self.ask_to_stop,
                signal.SIGUSR1: self.ask_to_save,
            }
            if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
                del handlers[signal.SIGHUP]
            self.previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def ask_to_stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop is not None:
            if signal.SIGHUP not in (number, self.stop):
                raise KeyboardInterrupt
            return
        self.stop = number
        if is_log_shown():
            name = signal.Signals(number).name
            again = "" if number == signal.SIGHUP else "; once more stops at once without saving"
            # A drawing that the signal interrupted would drop what comes between; the stream beneath it does not.
            beneath = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
            put(f"\n{name}: finishing this micro-batch, then saving{again}", beneath)

    def ask_to_save(self, _number: int, _frame: FrameType | None) -> None:
        self.save = True
