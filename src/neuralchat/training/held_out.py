"""The loss on held-out examples, measured with the batches and the loss of training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainingArguments

from neuralchat.data.example_store import ExampleStore
from neuralchat.data.step_shares import StepShares
from neuralchat.distributed.collectives import all_gather_object, all_reduce_sum
from neuralchat.errors import ArgumentsError
from neuralchat.training.step import micro_batch_sums
from neuralchat.training.stopping import Failure, FailureKind, StepAbandonedError, StopSignals, memory_failure

# exp(710) is more than a float can hold.
LARGEST_EXPONENT = 700.0


class HeldOut:
    """`shares` makes micro-batches as for training; each rank takes its part of `examples`, `batch_size` at a time."""

    def __init__(
        self,
        model: Any,
        examples: ExampleStore,
        shares: StepShares,
        *,
        batch_size: int,
        pad_id: int,
        device: torch.device,
        signals: StopSignals,
    ) -> None:
        self.model = model
        self.examples = examples
        self.shares = shares
        self.batch_size = batch_size
        self.pad_id = pad_id
        self.device = device
        self.signals = signals

    def measure(self, on_batch: Callable[[float], None] | None = None) -> dict[str, float]:
        """eval_loss is the mean cross entropy over supervised tokens. Raises StepAbandonedError as `loss`.

        `on_batch` is told which share of this rank's examples is done, from 0 to 1.
        """
        start = time.perf_counter()
        loss, tokens = self.loss(on_batch)
        return {
            "eval_loss": loss,
            "eval_perplexity": math.exp(min(loss, LARGEST_EXPONENT)),
            "eval_supervised_tokens": tokens,
            "eval_seconds": round(time.perf_counter() - start, 3),
        }

    @torch.no_grad()
    def loss(self, on_batch: Callable[[float], None] | None = None) -> tuple[float, int]:
        """(mean cross entropy, number) of the supervised tokens, each example once over all ranks.

        Raises StepAbandonedError, on all ranks alike, after a stop or where memory ran out.
        """
        was_training = self.model.training
        self.model.eval()
        loss_sum, tokens, stop = 0.0, 0, False
        failure: Failure | None = None
        own = range(self.shares.rank, len(self.examples), self.shares.world_size)
        for start in range(0, len(own), self.batch_size):
            stop = self.signals.stop is not None
            if stop:
                break
            share = self.shares.share([self.examples[i] for i in own[start : start + self.batch_size]])
            try:
                sums = micro_batch_sums(self.model, share, self.signals, pad_id=self.pad_id)
                loss_sum += sum(loss.item() for loss, _, _ in sums)
            except (RuntimeError, MemoryError) as error:
                failure = memory_failure(error)
                break
            tokens += share.supervised_tokens
            if on_batch is not None:
                on_batch(min(1.0, (start + self.batch_size) / len(own)))
        self.model.train(was_training)
        # A signal may have cut the last batch short.
        stop |= self.signals.stop is not None
        counted = (loss_sum, tokens, stop, failure is not None)
        loss_sum, all_tokens, any_stop, any_failure = all_reduce_sum(counted, self.device)
        if any_stop:
            raise StepAbandonedError(FailureKind.STOP)
        if any_failure:
            met = all_gather_object(failure.what if failure else "")
            raise StepAbandonedError(FailureKind.MEMORY, next((what for what in met if what), ""))
        return loss_sum / all_tokens, int(all_tokens)

    @staticmethod
    def chosen(metrics: dict[str, float], args: TrainingArguments) -> float:
        """The value of --metric_for_best_model. Raises ArgumentsError for a name that is not measured."""
        name = str(args.metric_for_best_model)
        name = name if name.startswith("eval_") else f"eval_{name}"
        if name not in metrics:
            known = ", ".join(key.removeprefix("eval_") for key in metrics)
            raise ArgumentsError(f"--metric_for_best_model is '{args.metric_for_best_model}'; measured are {known}")
        return metrics[name]
