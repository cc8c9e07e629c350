"""arguments and data -> what each optimizer step is made of, for the training loop and for all that shows it before."""

from __future__ import annotations

import math

from transformers import TrainingArguments

from neuralchat.config.config import FinetuneConfig
from neuralchat.data.batch_plan import BatchPlan
from neuralchat.data.general_plan import GeneralPlan
from neuralchat.data.layout import Layout
from neuralchat.data.prepared_data import PreparedData
from neuralchat.data.step_shares import StepShares
from neuralchat.data.tokenization import Seq2SeqEncoder
from neuralchat.errors import ArgumentsError


def make_step_shares(
    arguments: FinetuneConfig,
    training: TrainingArguments,
    data: PreparedData,
    *,
    layout: Layout | None,
    units_per_step: int,
    micro_batch_tokens: int,
    rank: int | None = None,
    world_size: int | None = None,
) -> StepShares:
    """The shares of one process. `rank`, `world_size`: by default those of this process. `layout`: None where
    micro-batches are padded. `units_per_step`: the global batch.
    """
    plan = make_batch_plan(arguments, training, data, layout=layout, units_per_step=units_per_step)
    return StepShares(
        store=data.trained_on,
        plan=plan,
        rank=training.process_index if rank is None else rank,
        world_size=training.world_size if world_size is None else world_size,
        micro_batch_tokens=micro_batch_tokens,
        layout=layout,
        general=make_general_plan(arguments, training, data, plan),
    )


def make_batch_plan(
    arguments: FinetuneConfig,
    training: TrainingArguments,
    data: PreparedData,
    *,
    layout: Layout | None,
    units_per_step: int,
) -> BatchPlan:
    order, packed = str(training.train_sampling_strategy), layout is not None
    store = data.trained_on
    plan = BatchPlan(
        fingerprint=store.content_fingerprint,
        lengths=tuple(store.lengths.tolist()),
        seed=training.seed if training.data_seed is None else training.data_seed,
        units_per_step=units_per_step,
        # An encoder-decoder model's examples are as long as its source and target together.
        row_tokens=data.encoder.max_seq_length if packed and arguments.data.dataset_concatenation else None,
        drop_last=training.dataloader_drop_last,
        # Packed batches hold no padding that sorting could save.
        order="random" if order == "group_by_length" and packed else order,
    )
    if plan.steps == 0:
        raise ArgumentsError(
            f"--dataloader_drop_last leaves no step: {len(plan.units)} unit(s) of data are fewer than a batch of "
            f"{plan.units_per_step}"
        )
    return plan


def steps_in_all(training: TrainingArguments, plan: BatchPlan) -> int:
    """How many optimizer steps a run has in all."""
    return training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * plan.steps)


def make_general_plan(
    arguments: FinetuneConfig, training: TrainingArguments, data: PreparedData, plan: BatchPlan
) -> GeneralPlan | None:
    """The general prompts beside each step; None where nothing is kept."""
    tuning = arguments.tuning
    wanted = tuning.keep_general and tuning.general_share > 0 and tuning.general_weight > 0
    if not wanted or not training.do_train or isinstance(data.encoder, Seq2SeqEncoder):
        return None
    examples = data.general
    if not examples:
        return None
    return GeneralPlan(examples, seed=plan.seed, tokens_per_step=tuning.general_share * sum(plan.lengths) / plan.steps)
