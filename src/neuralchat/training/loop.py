"""The training loop, whole: epochs, optimizer steps, and after each step what is due: log, evaluate, save.

    while epochs are left:
        for each step of the epoch:
            agree with the other ranks: tokens of the step, who asks to stop or to save
            loss and gradient (step.py), optimizer, schedule
            log, evaluate, save, where transformers' DefaultFlowCallback or another callback says so
        the same once more at the end of the epoch

A step happens on all ranks or leaves no trace, so the state is always that of the last finished step. Where training
stands in the epoch, what was still due then, and the state of the random generators are part of it: a run that goes on
from a checkpoint does what the undisturbed one would have done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from neuralchat.checkpointing.checkpointer import Checkpointer
from neuralchat.checkpointing.rng import rng_state, set_rng_state
from neuralchat.console.live import LiveProgress
from neuralchat.data.step_loader import StepLoader
from neuralchat.data.step_shares import StepShare
from neuralchat.distributed.collectives import all_reduce_sum
from neuralchat.models.compat.trainer import CallbackHandler
from neuralchat.preparation.optimizer import steps_by_metric
from neuralchat.training.held_out import HeldOut
from neuralchat.training.position import Position
from neuralchat.training.run_clock import RunClock
from neuralchat.training.step import GradientSum
from neuralchat.training.stopping import FailureKind, StepAbandonedError, StopSignals
from neuralchat.watching.counters import Counters
from neuralchat.watching.part_clock import BETWEEN_RANKS, EVALUATING, OPTIMIZER, SAVING, PartClock


@dataclass(kw_only=True, eq=False)
class TrainingLoop:
    """Trains in place. `state` and `control` are those that callbacks know from transformers."""

    args: TrainingArguments
    loader: StepLoader
    max_steps: int
    gradients: GradientSum
    held_out: HeldOut | None
    optimizer: torch.optim.Optimizer
    scheduler: Any
    counters: Counters
    checkpointer: Checkpointer
    callbacks: CallbackHandler
    state: TrainerState
    control: TrainerControl
    signals: StopSignals
    progress: LiveProgress
    clock: RunClock = field(default_factory=RunClock)
    parts: PartClock = field(default_factory=PartClock)
    position: Position = field(default_factory=Position, init=False)
    # As the last finished step left it: a step that is given up has drawn random numbers of its own.
    rng: dict[str, Any] = field(default_factory=rng_state, init=False)
    # Of the checkpoint gone on from: what was still to be done at its step, by the names of `control`.
    due: dict[str, bool] = field(default_factory=dict, init=False)

    @property
    def steps_per_epoch(self) -> int:
        return self.loader.shares.plan.steps

    @property
    def next_step(self) -> int:
        """Which step of the plan comes next, counted on over the epochs."""
        return self.position.epoch * self.steps_per_epoch + self.position.step

    # The loop

    def run(self) -> None:
        """All steps that are left. Raises StepAbandonedError after a stop or where memory ran out; then `run` may be
        called again, or the state saved.
        """
        self.control = self.callbacks.on_train_begin(self.args, self.state, self.control)
        self.counters.start()
        set_rng_state(self.rng)
        # After on_train_begin, which clears some of them.
        due, self.due = self.due, {}
        for name, value in due.items():
            setattr(self.control, name, value)
        self.log_evaluate_save()
        while not (self.position.ended and self.is_over()):
            self.run_epoch()
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self.checkpointer.load_best(self.state.best_model_checkpoint)
        self.control = self.callbacks.on_train_end(self.args, self.state, self.control)

    def is_over(self) -> bool:
        return self.control.should_training_stop or self.state.global_step >= self.max_steps

    def run_epoch(self) -> None:
        """What is left of the epoch at hand, or the next one where that has ended."""
        if self.position.ended and self.position.step >= self.steps_per_epoch:
            self.position = Position(self.position.epoch + 1, skipped=self.position.skipped)
        # A run that ended within an epoch and was made longer goes on in it.
        self.position.ended = False
        if self.position.step == 0:
            self.control = self.callbacks.on_epoch_begin(self.args, self.state, self.control)
        for share in self.shares_of_epoch():
            self.train_step(share)
            self.log_evaluate_save()
            if self.control.should_epoch_stop or self.control.should_training_stop:
                break
        if self.control.should_epoch_stop and not self.control.should_training_stop:
            self.position.skipped += self.steps_per_epoch - self.position.step
            self.position.step = self.steps_per_epoch
        self.position.ended = True
        self.control = self.callbacks.on_epoch_end(self.args, self.state, self.control)
        self.log_evaluate_save()

    def shares_of_epoch(self) -> Iterator[StepShare]:
        """This rank's shares of the steps that are left in this epoch."""
        if self.control.should_epoch_stop or self.control.should_training_stop:
            return iter(())
        left = min(self.steps_per_epoch - self.position.step, self.max_steps - self.state.global_step)
        shares = self.loader.steps(self.next_step, self.next_step + left)
        if self.position.step:
            # The loader has drawn a random number, which an undisturbed run does at the beginning of an epoch only.
            set_rng_state(self.rng)
        return self.parts.reading(shares)

    def train_step(self, share: StepShare) -> None:
        supervised_tokens, tokens = self.agree(share)
        self.control = self.callbacks.on_step_begin(self.args, self.state, self.control)
        result = self.gradients.step(
            share, supervised_tokens, self.state.global_step + 1, lambda: self.loader.shares.sources(self.next_step)
        )
        self.control = self.callbacks.on_pre_optimizer_step(self.args, self.state, self.control)
        with self.parts.part(OPTIMIZER):
            self.optimizer.step()
        self.control = self.callbacks.on_optimizer_step(self.args, self.state, self.control)
        learning_rate = float(self.scheduler.get_last_lr()[0])
        if not steps_by_metric(self.scheduler):
            self.scheduler.step()
        self.optimizer.zero_grad()
        self.state.global_step += 1
        self.position.step += 1
        self.state.epoch = self.position.epoch + self.position.step / self.steps_per_epoch
        self.counters.step_done(
            result.loss,
            result.grad_norm,
            learning_rate,
            tokens=tokens,
            supervised_tokens=supervised_tokens,
            divergence=result.divergence,
        )
        if self.args.include_num_input_tokens_seen != "no":
            self.state.num_input_tokens_seen += tokens
        self.rng = rng_state()
        self.control = self.callbacks.on_step_end(self.args, self.state, self.control)
        # However short the run, its last step is logged; no callback may let it run on.
        self.control.should_log |= self.state.global_step >= self.max_steps
        self.control.should_training_stop |= self.state.global_step >= self.max_steps

    def agree(self, share: StepShare) -> tuple[int, int]:
        """(supervised tokens, tokens) of the step on all ranks. What signals ask for is heeded by all alike."""
        self.clock.step_begins()
        save_now = self.signals.save or self.clock.is_save_due()
        asked = (self.signals.stop is not None, self.clock.is_up(), save_now)
        own = (share.supervised_tokens, share.tokens, *map(float, asked))
        seconds = self.parts.own_step(self.args.process_index, self.args.world_size)
        with self.parts.part(BETWEEN_RANKS):
            totals = all_reduce_sum((*own, *seconds), self.args.device)
        supervised_tokens, tokens, stop, time_is_up, save = map(int, totals[: len(own)])
        self.parts.see_ranks(totals[len(own) :])
        if stop or time_is_up:
            self.clock.has_ended_run = not stop
            raise StepAbandonedError(FailureKind.STOP)
        if save:
            self.signals.save = False
            self.save_now()
        return supervised_tokens, tokens

    # What is due after a step

    def log_evaluate_save(self) -> None:
        """Do what `control` says is due, each once; what has not been done is part of a checkpoint."""
        if self.control.should_log and self.counters.steps_since_log:
            self.log(self.counters.take_log())
        if self.control.should_evaluate:
            is_best = self.is_best(self.evaluate())
            if self.args.save_strategy == SaveStrategy.BEST:
                self.control.should_save = is_best
        if self.control.should_save:
            self.control.should_save = False
            self.save()
            self.control = self.callbacks.on_save(self.args, self.state, self.control)

    def log(self, values: dict[str, Any]) -> None:
        """Hand `values` to every callback: metrics.jsonl, the progress line, trackers."""
        self.control.should_log = False
        values = {**values, "epoch": self.state.epoch}
        if self.args.include_num_input_tokens_seen != "no":
            values["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        self.state.log_history.append({**values, "step": self.state.global_step})
        self.control = self.callbacks.on_log(self.args, self.state, self.control, values)

    def evaluate(self) -> dict[str, float]:
        """Measure the held-out loss and log it. Raises StepAbandonedError if a signal asks to stop."""
        assert self.held_out is not None
        with self.progress.activity("evaluating") as advance, self.parts.part(EVALUATING):
            metrics = self.held_out.measure(advance)
        self.log(dict(metrics))
        self.control = self.callbacks.on_evaluate(self.args, self.state, self.control, metrics)
        if steps_by_metric(self.scheduler) and self.state.global_step:
            self.scheduler.step(self.held_out.chosen(metrics, self.args))
        return metrics

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Whether --metric_for_best_model is better than ever; remembered in the state if so."""
        if self.args.metric_for_best_model is None or self.held_out is None:
            return False
        value, best = self.held_out.chosen(metrics, self.args), self.state.best_metric
        if best is not None and not (value > best if self.args.greater_is_better else value < best):
            return False
        self.state.best_metric = value
        if self.args.save_strategy != SaveStrategy.NO:
            self.state.best_global_step = self.state.global_step
        return True

    def save(self) -> None:
        before = time.monotonic()
        with self.progress.activity("saving"), self.parts.part(SAVING):
            self.checkpointer.save(self.state, self.rng, {"loop": self, "counters": self.counters})
        self.clock.saved(time.monotonic() - before)

    def save_now(self) -> None:
        """A checkpoint of the last finished step, unless it has one."""
        if not self.checkpointer.has(self.state.global_step):
            self.save()

    # State

    def state_dict(self) -> dict[str, Any]:
        """Position, and what is due at it. That --max_steps are reached is no part of it: a run may be made longer."""
        due = {flag.name: bool(getattr(self.control, flag.name)) for flag in fields(self.control)}
        due["should_training_stop"] &= self.state.global_step < self.max_steps
        return {"position": asdict(self.position), "due": due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a position that no run of this plan can have at the state's step."""
        position = Position(**state["position"])
        position.check(self.steps_per_epoch, self.state.global_step)
        self.position, self.due = position, dict(state["due"])
