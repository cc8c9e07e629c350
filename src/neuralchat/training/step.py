"""One optimizer step's loss and gradient, summed over micro-batches and ranks.

    loss of a step = sum of the cross entropies of its supervised tokens, over all its micro-batches and ranks,
                     divided by the number of these tokens

Where the base model's general knowledge is kept, what is minimised is

    loss + weight * sum of the divergences from the base model on the general prompts beside the step
                    / number of predictions that are compared beside a step on average

A step either happens on all ranks or on none: what a rank meets on the way (a stop, memory, a number that is not
finite) travels in the same all-reduce as the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from neuralchat.console import note
from neuralchat.data.packing import PackedBatch
from neuralchat.data.step_shares import StepShare
from neuralchat.distributed.collectives import all_gather_object, sum_gradients, told_by_first
from neuralchat.models.adapters.teacher import Teacher
from neuralchat.models.losses.causal import KnownStates, causal_packed_sums, causal_padded_divergence_sum
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum
from neuralchat.planning.pass_cost import packed_tokens, padded_tokens
from neuralchat.training.freed_pages import FreedPages
from neuralchat.training.stopping import (
    Failure,
    FailureKind,
    StepAbandonedError,
    StopSignals,
    TrainingError,
    memory_failure,
    nonfinite_message,
)
from neuralchat.watching.part_clock import BETWEEN_RANKS, PASSES, PartClock

# Of a step: (cross entropies, divergence).
Sums = tuple[float, float]
NO_SUMS: Sums = (0.0, 0.0)


@dataclass(frozen=True)
class StepResult:
    """`loss`: mean cross entropy over the supervised tokens of the step, all ranks together. `grad_norm`: L2 norm of
    the whole gradient before clipping. A skipped step has neither, and no parameter has a gradient. `divergence`: sum
    over the general prompts beside the step, all ranks together, divided by how many predictions are compared on
    average.
    """

    loss: float | None
    grad_norm: float | None
    divergence: float = 0.0


@dataclass(frozen=True)
class KeptKnowledge:
    """How the base model's general knowledge is kept: what it says, and how much it weighs against the loss.

    `known`: what it says at the compared places of packed rows. Where micro-batches are padded, the `teacher` is asked
    in every step instead.
    """

    teacher: Teacher | None
    known: KnownStates | None
    weight: float
    positions_per_step: float


class GradientSum:
    """Forward and backward of a step. `on_nonfinite`: "stop" or "skip"; `max_grad_norm`: 0 clips nothing.

    `on_micro_batch` is told which share of the rank's micro-batches is done, from 0 to 1.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        pad_id: int,
        signals: StopSignals,
        label_smoothing: float = 0.0,
        max_grad_norm: float = 0.0,
        on_nonfinite: str = "stop",
        on_micro_batch: Callable[[float], None] | None = None,
        kept: KeptKnowledge | None = None,
        parts: PartClock | None = None,
    ) -> None:
        self.model = model
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.pad_id = pad_id
        self.signals = signals
        self.label_smoothing = label_smoothing
        self.max_grad_norm = max_grad_norm
        self.on_nonfinite = on_nonfinite
        self.on_micro_batch = on_micro_batch
        self.kept = kept
        self.parts = parts or PartClock()
        self.freed_pages = FreedPages()

    def step(self, share: StepShare, supervised_tokens: int, step: int, sources: Callable[[], list[str]]) -> StepResult:
        """Leave the step's gradient in the parameters. `supervised_tokens`: of all ranks. `step`: from 1, for messages.

        `sources` names the records of the step on all ranks. Raises, on all ranks alike, StepAbandonedError after a
        stop or where memory ran out, and TrainingError for a number that is not finite.
        """
        with self.parts.part(PASSES):
            sums, failure = self.backward(share, supervised_tokens)
        with self.parts.part(BETWEEN_RANKS):
            (loss_sum, divergence), counts = self.sum_over_ranks(sums, failure)
        for kind in (FailureKind.STOP, FailureKind.MEMORY):
            if counts[kind]:
                met = all_gather_object(failure.what if failure else "")
                raise StepAbandonedError(kind, next((what for what in met if what), ""))
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        norm = get_total_norm(gradients)
        if not counts[FailureKind.NONFINITE] and not bool(torch.isfinite(norm)):
            # Every rank has the same sum, so all agree without asking.
            failure = Failure(FailureKind.NONFINITE, "the gradient is not a number", sources())
            counts[FailureKind.NONFINITE] = 1
        if counts[FailureKind.NONFINITE]:
            self.give_up_nonfinite(failure, step)
            return StepResult(None, None)
        if self.max_grad_norm > 0:
            clip_grads_with_norm_(self.trained, self.max_grad_norm, norm)
        return StepResult(loss_sum / supervised_tokens, float(norm), divergence)

    def backward(self, share: StepShare, supervised_tokens: int) -> tuple[Sums, Failure | None]:
        """(sums over this rank's micro-batches, what went wrong). Gradients add up in the parameters."""
        self.model.train()
        self.drop_gradients()
        loss_sum, divergence_sum = torch.zeros(2, device=self.trained[0].device)
        done = 0
        try:
            for loss, divergence, sources in micro_batch_sums(
                self.model,
                share,
                self.signals,
                pad_id=self.pad_id,
                label_smoothing=self.label_smoothing,
                kept=self.kept,
                before=self.freed_pages.before,
            ):
                if not torch.isfinite(loss):
                    return NO_SUMS, Failure(FailureKind.NONFINITE, f"the loss is {loss.item()}", sources)
                objective = loss / supervised_tokens
                loss_sum += loss.detach()
                if self.kept is not None and divergence is not None:
                    mean = divergence / self.kept.positions_per_step
                    objective = objective + self.kept.weight * mean
                    divergence_sum += mean.detach()
                objective.backward()
                done += 1
                if self.on_micro_batch is not None:
                    self.on_micro_batch(done / share.micro_batches)
            if done < share.micro_batches:
                return NO_SUMS, Failure(FailureKind.STOP)
            # A step whose micro-batches are done is taken before the stop.
            return (float(loss_sum), float(divergence_sum)), None
        except (RuntimeError, MemoryError) as error:
            return NO_SUMS, memory_failure(error)

    def sum_over_ranks(self, sums: Sums, failure: Failure | None) -> tuple[Sums, list[float]]:
        """(sums of all ranks, how many ranks met each kind of failure); gradients become those of all ranks."""
        extra = [*sums, *(float(failure is not None and failure.kind == kind) for kind in FailureKind)]
        if failure is not None:
            self.drop_gradients()
        loss_sum, divergence, *counts = sum_gradients(self.trained, extra)
        return (loss_sum, divergence), counts

    def give_up_nonfinite(self, failure: Failure | None, step: int) -> None:
        """Tell, and stop where that is asked for. The optimizer passes over weights without a gradient."""
        self.drop_gradients()
        # The rank that met it knows the records; all tell the same, that is, the first of them does.
        own = nonfinite_message(failure, step) if failure else None
        message = next(text for text in all_gather_object(own) if text)
        if self.on_nonfinite == "stop":
            raise told_by_first(TrainingError(message))
        note(f"step skipped: {message}")

    def drop_gradients(self) -> None:
        for parameter in self.trained:
            parameter.grad = None


def micro_batch_sums(
    model: Any,
    share: StepShare,
    signals: StopSignals,
    *,
    pad_id: int,
    label_smoothing: float = 0.0,
    kept: KeptKnowledge | None = None,
    before: Callable[[int], None] = lambda _tokens: None,
) -> Iterator[tuple[Tensor, Tensor | None, list[str]]]:
    """(loss sum, divergence sum where something is compared, sources of its records) of each micro-batch.

    Ends early once a signal has asked to stop. `before` is told how many tokens are computed at once next.
    """
    for batch in share.packed:
        if signals.stop is not None:
            return
        before(packed_tokens(batch))
        if kept is not None and kept.known is not None and isinstance(batch, PackedBatch):
            yield *causal_packed_sums(model, batch, kept.known, label_smoothing=label_smoothing), list(batch.sources)
        else:
            yield packed_loss_sum(model, batch, label_smoothing=label_smoothing), None, list(batch.sources)
    for examples in share.padded:
        if signals.stop is not None:
            return
        before(padded_tokens(examples))
        loss = padded_loss_sum(model, examples, pad_id=pad_id, label_smoothing=label_smoothing)
        yield loss, None, [example.source for example in examples]
    for examples in share.padded_general:
        if signals.stop is not None or kept is None or kept.teacher is None:
            return
        before(padded_tokens(examples))
        divergence = causal_padded_divergence_sum(model, kept.teacher, examples, pad_id=pad_id)
        yield torch.zeros_like(divergence), divergence, []
