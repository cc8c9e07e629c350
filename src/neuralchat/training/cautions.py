"""What will surely not work, or does not work any more: told once each, with the flag to change. Nothing is stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from neuralchat.config.config import FinetuneConfig
from neuralchat.console import note
from neuralchat.data.batch_plan import BatchPlan
from neuralchat.training.counters import Counters

# A learning rate so many times that of the method does not train but destroys; one so many times below it stands still.
FAR_OFF_RATE = 100
# Fewer optimizer steps than this leave hardly anything behind.
FEW_STEPS = 20
# Steps whose median is compared with the start, so that one hard batch is no news.
RECENT_STEPS = 3
# A loss this many times that of the start, and this much above it, has not risen by chance.
RISEN_FACTOR, RISEN_BY = 1.5, 0.5
# The same of the gradient's norm, against the median of the first steps.
EXPLODED_FACTOR, NORMS_OF_START = 1e3, 5


def cautions(arguments: FinetuneConfig, args: TrainingArguments, plan: BatchPlan, max_steps: int) -> Iterator[str]:
    """What can be said before the first step."""
    yield from rate_cautions(arguments)
    batch, units = plan.units_per_step, len(plan.units)
    if batch > units:
        yield (
            f"a batch of {batch} is larger than all the data ({units}), so that each epoch is one step; a smaller "
            "--per_device_train_batch_size (or --gradient_accumulation_steps) makes more steps of the same data"
        )
    if max_steps < FEW_STEPS:
        yield (
            f"only {max_steps} optimizer step(s), in which a model hardly learns anything new; more --num_train_epochs "
            f"or a smaller batch than {batch} give more"
        )
    elif args.get_warmup_steps(max_steps) >= max_steps:
        yield f"the learning rate warms up for {args.get_warmup_steps(max_steps)} steps, the run has {max_steps}"
    if args.eval_strategy == "steps" and args.eval_steps and args.eval_steps > max_steps:
        yield f"--eval_steps {args.eval_steps:g} is more than the {max_steps} steps of the run: no evaluation within it"


def rate_cautions(arguments: FinetuneConfig) -> Iterator[str]:
    rate, method = arguments.training.learning_rate, arguments.tuning.method
    usual = f"{method.learning_rate:g} suits {method.name} (--learning_rate)"
    if rate > FAR_OFF_RATE * method.learning_rate:
        yield f"a learning rate of {rate:g} is so high that training will probably destroy the model; {usual}"
    elif rate < method.learning_rate / FAR_OFF_RATE:
        yield f"a learning rate of {rate:g} is so low that hardly anything will be learned; {usual}"


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
