"""transformers' Trainer with our batches and our loss: a sum over supervised tokens divided by their number."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from neuralchat.data.example_store import ExampleStore
from neuralchat.errors import NeuralChatError
from neuralchat.models.losses import packed_loss_sum, padded_loss_sum
from neuralchat.training.step_loader import StepPart, StepParts, make_loader


class TrainingError(NeuralChatError):
    """Training that cannot go on, such as a loss that is not a number."""

    exit_status = 3


def as_it_is(item: Any) -> Any:
    """The collator: an item of the loader is a whole part already."""
    return item


class FineTuningTrainer(Trainer):
    """Loss of a step = sum over the supervised tokens of all its micro-batches and ranks / their number.

    A step part is a rank's whole share; it is split into micro-batches here, so the user's accumulation count is
    the Trainer's, and memory follows micro_batch_tokens.
    """

    model: Any

    def __init__(self, *, parts: StepParts, pad_id: int, initial_adapter: str | None = None, **kwargs: Any) -> None:
        super().__init__(train_dataset=parts, data_collator=as_it_is, **kwargs)
        self.parts = parts
        self.pad_id = pad_id
        self.initial_adapter = initial_adapter
        self.tokens_seen = self.tokens_before = 0
        self.supervised_tokens_seen = 0
        # One process reduces its gradients itself, by their sum; a wrapper that averages would be wrong where
        # ranks hold unequal numbers of tokens.
        self.accelerator.prepare_model = lambda model, **_: model

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
        self.parts.epoch = kwargs["epoch"]
        super()._run_epoch(*args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[StepPart], num_batches: int, device: torch.device
    ) -> tuple[list[StepPart], Tensor]:
        """The parts of one optimizer step and the number of supervised tokens on all ranks."""
        parts = [next(epoch_iterator) for _ in range(num_batches)]
        counts = [(part.supervised_tokens, part.tokens) for part in parts]
        totals = torch.tensor(counts, device=device).sum(dim=0)
        if dist.is_initialized():
            dist.all_reduce(totals)
        self.supervised_tokens_seen += int(totals[0])
        self.tokens_seen += int(totals[1])
        return parts, totals[0]

    # Loss and gradients

    def part_losses(self, part: StepPart, smoothing: float = 0.0) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
        """(loss sum, sources of the records) of each micro-batch. `smoothing`: that of the labels."""
        for batch in part.packed:
            yield packed_loss_sum(self.model, batch, label_smoothing=smoothing), batch.sources
        for examples in part.padded:
            loss = padded_loss_sum(self.model, examples, pad_id=self.pad_id, label_smoothing=smoothing)
            yield loss, tuple(example.source for example in examples)

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        model.train()
        total = torch.zeros((), device=self.args.device)
        for loss, sources in self.part_losses(inputs, self.args.label_smoothing_factor):
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss.item()} at step {self.state.global_step + 1}, before any weight was changed "
                    f"by it; the records are: {', '.join(sources[:8])}{' ...' if len(sources) > 8 else ''}. "
                    "Lower --learning_rate, or look at these records."
                )
            (loss / num_items_in_batch).backward()
            total += loss.detach()
        if self.accelerator.gradient_state.sync_gradients:
            self.sum_gradients_over_ranks()
        # The Trainer averages what ranks report; the sum is meant.
        return total / num_items_in_batch * self.args.world_size

    def sum_gradients_over_ranks(self) -> None:
        """One all-reduce of all adapter gradients, laid end to end."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        trained = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in trained:
            # A rank without examples in this step contributes nothing.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in trained])
        dist.all_reduce(flat)
        for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            parameter.grad = part.view_as(parameter)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        if self.args.include_num_input_tokens_seen != "no":
            self.state.num_input_tokens_seen += inputs.tokens

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        return 0

    # Evaluation

    @torch.no_grad()
    def held_out_loss(self, store: ExampleStore) -> tuple[float, int]:
        """(mean cross entropy, number) of the supervised tokens of `store`, each example once over all ranks."""
        was_training = self.model.training
        self.model.eval()
        rank, world = self.args.process_index, self.args.world_size
        sums = torch.zeros(2, dtype=torch.float64)
        batch = self.args.per_device_eval_batch_size
        indices = list(range(len(store)))[rank::world]
        for start in range(0, len(indices), batch):
            examples = [store[i] for i in indices[start : start + batch]]
            part = self.parts.part(examples)
            for loss, _ in self.part_losses(part):
                sums[0] += loss.item()
            sums[1] += part.supervised_tokens
        if dist.is_initialized():
            dist.all_reduce(sums)
        self.model.train(was_training)
        return float(sums[0] / sums[1]), int(sums[1])

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

    # Saving

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Adapter (or model) and tokenizer; no pickled training arguments."""
        target = Path(output_dir or str(self.args.output_dir))
        target.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {}
        if isinstance(self.model, PeftModel):
            # Rows of added tokens are saved by themselves; the whole embedding is not needed.
            options["save_embedding_layers"] = False
            if self.initial_adapter and target == Path(str(self.args.output_dir)):
                # A checkpoint keeps what training goes on with; the result fits the unchanged base model.
                options["path_initial_model_for_weight_conversion"] = self.initial_adapter
        self.model.save_pretrained(str(target), state_dict=state_dict, **options)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(str(target))
