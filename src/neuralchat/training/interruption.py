"""Signals while training: stop after the step with everything saved, or save and go on."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from neuralchat.errors import EXIT_INTERRUPTED, NeuralChatError


class InterruptedTrainingError(NeuralChatError):
    """Training stopped because the user or the system asked for it; nothing is lost."""

    exit_status = EXIT_INTERRUPTED


class SaveOnSignal(TrainerCallback):
    """SIGINT and SIGTERM finish the step, save and stop; a second one stops at once. SIGUSR1 saves and goes on."""

    def __init__(self) -> None:
        self.stop_asked: str | None = None
        self.save_asked = False
        self.previous: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.previous = {
            signal.SIGINT: signal.signal(signal.SIGINT, self.ask_to_stop),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self.ask_to_stop),
            signal.SIGUSR1: signal.signal(signal.SIGUSR1, self.ask_to_save),
        }

    def restore(self) -> None:
        """Give the signals back to whoever had them before training."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def ask_to_stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop_asked:
            self.restore()
            raise KeyboardInterrupt
        self.stop_asked = signal.Signals(number).name
        print(
            f"\n{self.stop_asked}: finishing this step, then saving; once more stops at once without saving",
            file=sys.stderr,
            flush=True,
        )

    def ask_to_save(self, _number: int, _frame: FrameType | None) -> None:
        self.save_asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self.stop_asked and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
        elif self.save_asked:
            control.should_save = True
        self.save_asked = False

    def check(self, output: Path, state: Any) -> None:
        """After training: raise InterruptedTrainingError if it stopped early because a signal asked for it."""
        if self.stop_asked and state.global_step < state.max_steps:
            raise InterruptedTrainingError(
                f"stopped by {self.stop_asked} after step {state.global_step} of {state.max_steps}; all is saved in "
                f"{output / f'checkpoint-{state.global_step}'}.\nGo on with the same command and "
                "--resume_from_checkpoint auto (without --overwrite_output_dir)."
            )
