"""What is counted while training runs: tokens, seconds, and the loss since the last logged step."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class Counters:
    """Tokens are those of all ranks. `loss_since_log` and `total_loss` are sums over steps that were not skipped."""

    tokens: int = 0
    supervised_tokens: int = 0
    skipped_steps: int = 0
    # Seconds of training in the parts of the run before this one.
    seconds_before: float = 0.0
    loss_since_log: float = 0.0
    # Steps since the last logged one, and how many of them have a loss.
    steps_since_log: int = 0
    losses_since_log: int = 0
    # Sum of the divergences from the base model on general prompts, where they are kept.
    divergence_since_log: float = 0.0
    total_loss: float = 0.0
    total_losses: int = 0
    # Of the last step; a skipped one has a gradient of no size.
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    # When this part of the run began, and the tokens seen before it: not part of the state.
    began: float | None = field(default=None, compare=False)
    tokens_before: int = field(default=0, compare=False)

    def start(self) -> None:
        """This part of the run begins now, or goes on after a step that was given up."""
        if self.began is None:
            self.tokens_before = self.tokens
        self.seconds_before = self.seconds()
        self.began = time.perf_counter()

    def seconds(self) -> float:
        """Seconds of training so far, over all parts of the run."""
        return self.seconds_before + (0.0 if self.began is None else time.perf_counter() - self.began)

    def step_done(
        self,
        loss: float | None,
        grad_norm: float | None,
        learning_rate: float,
        *,
        tokens: int,
        supervised_tokens: int,
        divergence: float = 0.0,
    ) -> None:
        """`loss`: the step's mean; None for a skipped step. `divergence`: of step.StepResult."""
        self.tokens += tokens
        self.supervised_tokens += supervised_tokens
        self.grad_norm, self.learning_rate = grad_norm or 0.0, learning_rate
        self.steps_since_log += 1
        if loss is None:
            self.skipped_steps += 1
            return
        self.loss_since_log += loss
        self.losses_since_log += 1
        self.divergence_since_log += divergence
        self.total_loss += loss
        self.total_losses += 1

    def take_log(self) -> dict[str, float]:
        """Means since the last log, gradient norm and learning rate of the last step; begins new means."""
        values = {"loss": self.mean_loss_since_log or 0.0}
        if self.divergence_since_log and self.losses_since_log:
            values["general_divergence"] = self.divergence_since_log / self.losses_since_log
        self.loss_since_log = self.divergence_since_log = 0.0
        self.steps_since_log = self.losses_since_log = 0
        return {**values, "grad_norm": self.grad_norm, "learning_rate": self.learning_rate}

    @property
    def mean_loss_since_log(self) -> float | None:
        """None where every step since then was skipped, or none was made."""
        return self.loss_since_log / self.losses_since_log if self.losses_since_log else None

    @property
    def mean_loss(self) -> float:
        """Mean over all steps of the run that were not skipped."""
        return self.total_loss / max(self.total_losses, 1)

    def state_dict(self) -> dict[str, Any]:
        return {**{f.name: getattr(self, f.name) for f in fields(self) if f.compare}, "seconds_before": self.seconds()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for numbers that no run can have counted."""
        for name, value in state.items():
            kind = type(getattr(self, name))
            if not isinstance(value, kind) or not math.isfinite(value) or (kind is int and value < 0):
                raise ValueError(f"{name} is {value!r:.40}")
            setattr(self, name, value)
