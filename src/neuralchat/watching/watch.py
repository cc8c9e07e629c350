"""What does not work any more while it trains: told once, with the flag to change. Nothing is stopped."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from transformers import TrainerCallback

from neuralchat.console import note
from neuralchat.watching.counters import Counters

# Steps whose median is compared with the start, so that one hard batch is no news.
RECENT_STEPS = 3
# A loss this many times that of the start, and this much above it, has not risen by chance.
RISEN_FACTOR, RISEN_BY = 1.5, 0.5
# The same of the gradient's norm, against the median of the first steps.
EXPLODED_FACTOR, NORMS_OF_START = 1e3, 5


class Watch(TrainerCallback):
    """Tells once of a loss that has risen far above its start, and once of gradients that explode."""

    def __init__(self, counters: Counters, learning_rate: float) -> None:
        self.counters = counters
        self.advice = f"lower --learning_rate, which is {learning_rate:g}"
        self.total_before = 0.0
        self.start: float | None = None
        self.recent: list[float] = []
        self.first_norms: list[float] = []
        self.told: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.total_before = self.counters.total_loss
        # A run that goes on remembers how it began.
        self.start = next((line["loss"] for line in state.log_history if "loss" in line), None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        loss, norm = self.counters.total_loss - self.total_before, self.counters.grad_norm
        self.total_before = self.counters.total_loss
        if loss > 0:
            self.see_loss(loss, state.global_step)
        if norm > 0 and math.isfinite(norm):
            self.see_norm(norm, state.global_step)

    def see_loss(self, loss: float, step: int) -> None:
        if self.start is None:
            self.start = loss
            return
        self.recent = [*self.recent, loss][-RECENT_STEPS:]
        now = median(self.recent)
        if len(self.recent) == RECENT_STEPS and now > RISEN_FACTOR * self.start + RISEN_BY:
            self.tell("loss", f"the loss has risen from {self.start:.2f} to {now:.2f} at step {step}: {self.advice}")

    def see_norm(self, norm: float, step: int) -> None:
        if len(self.first_norms) < NORMS_OF_START:
            self.first_norms.append(norm)
        usual = median(self.first_norms[: max(1, len(self.first_norms) - 1)])
        if norm > EXPLODED_FACTOR * usual and norm > EXPLODED_FACTOR:
            self.tell(
                "norm", f"the gradient's norm is {norm:.1e} at step {step}, it began at {usual:.1e}: {self.advice}"
            )

    def tell(self, what: str, text: str) -> None:
        if what not in self.told:
            self.told.add(what)
            note(text)
