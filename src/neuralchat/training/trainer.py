"""transformers' Trainer with our batches and our loss: a sum over supervised tokens divided by their number."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from neuralchat.checkpointing.validate import fits
from neuralchat.console import note
from neuralchat.data.example_store import ExampleStore
from neuralchat.data.step_loader import StepPart, StepParts, make_loader
from neuralchat.distributed.collectives import gathered, several, told_by_first
from neuralchat.errors import NeuralChatError
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum
from neuralchat.training.saving import SavingTrainer
from neuralchat.training.signals import SignalWishes
from neuralchat.training.trouble import (
    Kind,
    StepAbandonedError,
    TrainingError,
    Trouble,
    is_out_of_memory,
    nonfinite_message,
)


def as_it_is(item: Any) -> Any:
    """The collator: an item of the loader is a whole part already."""
    return item


class FineTuningTrainer(SavingTrainer):
    """Loss of a step = sum over the supervised tokens of all its micro-batches and ranks / their number.

    A step part is a rank's whole share; it is split into micro-batches here, so the user's accumulation count is
    the Trainer's, and memory follows micro_batch_tokens. `on_nonfinite`: "stop" or "skip".
    """

    def __init__(
        self, *, parts: StepParts, pad_id: int, wishes: SignalWishes, on_nonfinite: str = "stop", **kwargs: Any
    ) -> None:
        super().__init__(train_dataset=parts, data_collator=as_it_is, **kwargs)
        self.parts = parts
        self.pad_id = pad_id
        self.wishes = wishes
        self.on_nonfinite = on_nonfinite
        self.trouble: Trouble | None = None
        # Sum over the supervised tokens of the step so far: of this rank, then of all.
        self.step_loss = torch.zeros(())
        self.step_tokens = self.step_supervised_tokens = 0
        self.tokens_before = 0
        self.began = time.perf_counter()
        # One process reduces its gradients itself, by their sum; a wrapper that averages would be wrong where
        # ranks hold unequal numbers of tokens.
        self.accelerator.prepare_model = lambda model, **_: model

    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.began

    def ends_epoch(self) -> bool:
        return self.state.global_step % self.parts.plan.steps == 0 or self.state.global_step >= self.state.max_steps

    # Batches

    def get_train_dataloader(self) -> DataLoader:
        return make_loader(
            self.parts,
            workers=self.args.dataloader_num_workers,
            persistent=self.args.dataloader_persistent_workers,
            prefetch=self.args.dataloader_prefetch_factor,
        )

    def num_examples(self, dataloader: DataLoader) -> int:  # noqa: ARG002
        return len(self.parts.store)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # Resumed after the last step of a run whose --max_steps end within an epoch.
            self.control.should_training_stop = True
            return
        self.parts.epoch = kwargs["epoch"]
        try:
            super()._run_epoch(*args, **kwargs)
        except (NeuralChatError, StepAbandonedError):
            raise
        except Exception:
            if self.resumed_step is None or self.state.global_step > self.resumed_step or several():
                raise
            # The first step after a checkpoint: what the optimizer cannot use shows only now.
            with fits(self.output / f"checkpoint-{self.resumed_step}"):
                raise

    def get_batch_samples(
        self, epoch_iterator: Iterator[StepPart], num_batches: int, device: torch.device
    ) -> tuple[list[StepPart], Tensor]:
        """The parts of one optimizer step and the number of supervised tokens on all ranks.

        What signals asked for is agreed on here too, so that all ranks heed it before the same step.
        """
        parts = [next(epoch_iterator) for _ in range(num_batches)]
        wishes = (int(self.wishes.stop is not None), int(self.wishes.save))
        counts = [(part.supervised_tokens, part.tokens, 0, 0) for part in parts]
        totals = torch.tensor([*counts, (0, 0, *wishes)], device=device).sum(dim=0)
        if several():
            dist.all_reduce(totals)
        supervised, tokens, stop, save = totals.tolist()
        if stop:
            raise StepAbandonedError(Kind.STOP)
        if save:
            self.wishes.save = False
            self.save_now()
        self.step_supervised_tokens, self.step_tokens = supervised, tokens
        return parts, totals[0]

    # Loss and gradients

    def part_losses(self, part: StepPart, smoothing: float = 0.0) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
        """(loss sum, sources of the records) of each micro-batch. `smoothing`: that of the labels.

        Ends early once a signal has asked to stop.
        """
        for batch in part.packed:
            if self.wishes.stop is not None:
                return
            yield packed_loss_sum(self.model, batch, label_smoothing=smoothing), batch.sources
        for examples in part.padded:
            if self.wishes.stop is not None:
                return
            loss = padded_loss_sum(self.model, examples, pad_id=self.pad_id, label_smoothing=smoothing)
            yield loss, tuple(example.source for example in examples)

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """The loss of the whole step, all ranks together, once its gradients are summed; 0 before that.

        Raises StepAbandonedError, on all ranks alike, before the optimizer has seen any of the step.
        """
        if not self.in_step:
            self.in_step = True
            self.loss_before_step = self._tr_loss.clone()
            self.step_loss = torch.zeros((), device=self.args.device)
            self.trouble = None
        model.train()
        if self.trouble is None:
            self.trouble = self.add_gradients(inputs, num_items_in_batch)
        if not self.accelerator.gradient_state.sync_gradients:
            return torch.zeros((), device=self.args.device)
        if self.gradients_are_useless():
            return self.skipped_loss()
        return self.step_loss / num_items_in_batch

    def add_gradients(self, part: StepPart, supervised_tokens: Tensor) -> Trouble | None:
        """Backward through all micro-batches, their loss sums added up; what went wrong, if anything."""
        done = 0
        try:
            for loss, sources in self.part_losses(part, self.args.label_smoothing_factor):
                if not torch.isfinite(loss):
                    return Trouble(Kind.NONFINITE, f"the loss is {loss.item()}", sources)
                (loss / supervised_tokens).backward()
                self.step_loss += loss.detach()
                done += 1
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return Trouble(Kind.MEMORY, str(error).splitlines()[0])
        # A step that is whole is taken before the stop.
        return Trouble(Kind.STOP) if done < len(part.packed) + len(part.padded) else None

    def gradients_are_useless(self) -> bool:
        """Sum the gradients over ranks. True if this step is to change nothing; raises where it is not to be done."""
        found = self.sum_over_ranks()
        for kind in (Kind.STOP, Kind.MEMORY):
            if found[kind]:
                met = gathered(self.trouble.what if self.trouble else "")
                raise StepAbandonedError(kind, next((what for what in met if what), ""))
        if not found[Kind.NONFINITE]:
            return False
        # The rank that met it knows the records; all tell, or rather the first of them, the same.
        own = nonfinite_message(self.trouble, self.state.global_step + 1) if self.trouble else None
        message = next(text for text in gathered(own) if text)
        if self.on_nonfinite == "stop":
            raise told_by_first(TrainingError(message))
        note(f"step skipped: {message}")
        self.skipped_steps += 1
        for parameter in self.model.parameters():
            # The optimizer passes over weights without a gradient: neither they nor their moments change.
            parameter.grad = None
        return True

    def skipped_loss(self) -> Tensor:
        """The mean loss since the last logged step, so that a skipped step does not shift it."""
        return self.loss_before_step / max(1, self.state.global_step - self._globalstep_last_logged)

    def sum_over_ranks(self) -> list[float]:
        """One all-reduce of all trained gradients, laid end to end, each kind of trouble and the loss behind them.

        Returns how many ranks met each kind.
        """
        trained = [p for p in self.model.parameters() if p.requires_grad]
        kinds = torch.zeros(len(Kind), device=self.args.device)
        if not several():
            gradients = [p.grad for p in trained if p.grad is not None]
            if self.trouble is not None:
                kinds[self.trouble.kind] = 1
            elif gradients and not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
                kinds[Kind.NONFINITE] = 1
                self.trouble = self.bad_gradient()
            return kinds.tolist()
        for parameter in trained:
            # A rank without examples in this step, or with trouble, contributes nothing.
            if parameter.grad is None or self.trouble is not None:
                parameter.grad = torch.zeros_like(parameter)
        if self.trouble is not None:
            kinds[self.trouble.kind] = 1
        flat = torch.cat([*(p.grad.flatten() for p in trained), kinds, self.step_loss.reshape(1)])
        dist.all_reduce(flat)
        *parts, kinds, loss = flat.split([*(p.numel() for p in trained), len(Kind), 1])
        self.step_loss = loss[0].clone()
        for parameter, part in zip(trained, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        if not kinds.any() and not flat.isfinite().all():
            # Each rank sees the same sum, so all agree without asking.
            kinds[Kind.NONFINITE] = 1
            self.trouble = self.bad_gradient()
        return kinds.tolist()

    def bad_gradient(self) -> Trouble:
        step = self.parts.plan.step(*divmod(self.state.global_step, self.parts.plan.steps))
        sources = tuple(self.parts.store[i].source for unit in step for i in unit)
        return Trouble(Kind.NONFINITE, "the gradient is not a number", sources)

    def finish_step(self, grad_norm: Any, learning_rate: float | None) -> None:
        self.tokens_seen += self.step_tokens
        self.supervised_tokens_seen += self.step_supervised_tokens
        super().finish_step(grad_norm, learning_rate)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        if self.args.include_num_input_tokens_seen != "no":
            self.state.num_input_tokens_seen += inputs.tokens

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        return 0

    # Evaluation

    @torch.no_grad()
    def held_out_loss(self, store: ExampleStore) -> tuple[float, int]:
        """(mean cross entropy, number) of the supervised tokens of `store`, each example once over all ranks.

        Raises StepAbandonedError if a signal asks to stop.
        """
        was_training = self.model.training
        self.model.eval()
        own, world = self.args.process_index, self.args.world_size
        sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        batch = self.args.per_device_eval_batch_size
        indices = list(range(len(store)))[own::world]
        for start in range(0, len(indices), batch):
            if self.wishes.stop is not None:
                sums[2] = 1
                break
            examples = [store[i] for i in indices[start : start + batch]]
            part = self.parts.part(examples)
            for loss, _ in self.part_losses(part):
                sums[0] += loss.item()
            sums[1] += part.supervised_tokens
        if several():
            dist.all_reduce(sums)
        self.model.train(was_training)
        loss_sum, tokens, stop = sums.tolist()
        if stop:
            raise StepAbandonedError(Kind.STOP)
        return loss_sum / tokens, int(tokens)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,  # noqa: ARG002
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        store: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        start = time.perf_counter()
        loss, tokens = self.held_out_loss(store)
        metrics = {
            f"{metric_key_prefix}_loss": loss,
            f"{metric_key_prefix}_perplexity": math.exp(min(loss, 700.0)),
            f"{metric_key_prefix}_supervised_tokens": tokens,
            f"{metric_key_prefix}_seconds": round(time.perf_counter() - start, 3),
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
