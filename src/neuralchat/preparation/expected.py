"""model and data -> what a step will take in time and memory, and the micro-batch that fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments

from neuralchat.config.config import FinetuneConfig
from neuralchat.console import gib, inform
from neuralchat.data.layout import Layout
from neuralchat.data.prepared_data import PreparedData
from neuralchat.data.step_shares import StepShares
from neuralchat.data.tokenization import Example
from neuralchat.distributed.collectives import all_gather_object, local_size, raise_together
from neuralchat.distributed.hardware import read_machine
from neuralchat.errors import ArgumentsError
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.loading.precision import Precision
from neuralchat.models.losses.loss_sum import packed_loss_sum, padded_loss_sum
from neuralchat.planning.earlier_runs import Corrections, RunKind, corrections
from neuralchat.planning.memory import MemoryForecast, measured_forecast, settle_micro_batch, state_bytes
from neuralchat.planning.optimizer_cost import optimizer_seconds
from neuralchat.planning.pass_cost import PassCost, SizeRule, examples_to_measure, measure_pass, size_rule
from neuralchat.planning.process_memory import peak_bytes_so_far, settled_resident_bytes
from neuralchat.planning.step_work import StepWork, step_work
from neuralchat.preparation.step_rows import make_step_shares, steps_in_all


@dataclass(frozen=True, kw_only=True)
class Expected:
    """`step_seconds`: of the slowest rank, without what is sent between ranks, as measured; `corrections`: by how much
    earlier runs of this `kind` on this machine differed from what had been measured.
    """

    memory: MemoryForecast
    micro_batch_tokens: int
    step_seconds: float
    kind: RunKind
    corrections: Corrections


def expected_cost(
    model: Any,
    arguments: FinetuneConfig,
    training: TrainingArguments,
    data: PreparedData,
    layout: Layout | None,
    *,
    pad_id: int,
    precision: Precision,
    kernels: str,
    units_per_step: int,
    may_recompute: bool,
) -> Expected | None:
    """Measured with a few records. Raises ArgumentsError where memory will not do; returns None instead where no
    smaller micro-batch does, and recomputing activations may.
    """
    shares = make_step_shares(
        arguments,
        training,
        data,
        layout=layout,
        units_per_step=units_per_step,
        micro_batch_tokens=arguments.tuning.most_tokens_at_once,
    )
    rule = size_rule(model)
    cost = measured_cost_of(model, data, layout, rule, pad_id=pad_id)
    kind = kind_of_run(model, arguments, training, precision, packed=layout is not None, kernels=kernels)
    found = corrections(kind)
    steps = steps_in_all(training, shares.plan)
    work = step_work(shares, steps, rule)
    memory = memory_forecast(model, arguments, shares, cost, work, precision, steps)
    memory = dataclasses.replace(memory, correction=found.memory)
    inform(memory_line(memory))
    if may_recompute and any(all_gather_object(is_beyond(memory))):
        return None
    settled = settled_together(memory, auto=arguments.tuning.fits_micro_batch)
    if settled != memory.micro_batch_tokens:
        work = step_work(dataclasses.replace(shares, micro_batch_tokens=settled), steps, rule)
        memory = dataclasses.replace(memory, micro_batch_tokens=settled, largest_tokens=work.largest_tokens)
    seconds = cost.seconds(work.micro_batches, work.work) + optimizer_seconds(model)
    return Expected(
        memory=memory,
        micro_batch_tokens=settled,
        # A step is as fast as its slowest rank.
        step_seconds=max(all_gather_object(seconds)),
        kind=kind,
        corrections=found,
    )


def is_beyond(memory: MemoryForecast) -> bool:
    """Whether not even the smallest micro-batches fit this machine."""
    limit = read_machine().memory_limit() // local_size()
    return memory.peak_bytes() > limit and memory.largest_micro_batch_tokens(limit) is None


def settled_together(memory: MemoryForecast, *, auto: bool) -> int:
    """The micro_batch_tokens of this process. Where memory will not do on one, all raise its ArgumentsError."""
    settled, error = 0, None
    try:
        settled = settle_micro_batch(memory, read_machine(), local_size=local_size(), auto=auto)
    except ArgumentsError as caught:
        error = caught
    raise_together(error)
    return settled


def measured_cost_of(model: Any, data: PreparedData, layout: Layout | None, rule: SizeRule, *, pad_id: int) -> PassCost:
    def loss_of(chosen: Sequence[Example]) -> torch.Tensor:
        if layout is not None:
            return packed_loss_sum(model, layout.pack(chosen))
        return padded_loss_sum(model, chosen, pad_id=pad_id)

    examples = examples_to_measure(data.trained_on)
    return measure_pass(model, loss_of, examples, lambda chosen: rule.of_examples(chosen, layout))


def memory_forecast(
    model: Any,
    arguments: FinetuneConfig,
    shares: StepShares,
    cost: PassCost,
    work: StepWork,
    precision: Precision,
    steps: int,
) -> MemoryForecast:
    weights = sum(p.numel() * p.element_size() for p in base_model_of(model).parameters())
    forecast = MemoryForecast(
        now_bytes=settled_resident_bytes(),
        state_bytes=state_bytes(model, str(arguments.training.optim)),
        bytes_per_token=cost.kept_bytes_per_token,
        micro_batch_tokens=shares.micro_batch_tokens,
        longest_example_tokens=int(shares.store.lengths.max()),
        largest_tokens=work.largest_tokens,
        besides_bytes=knowledge_bytes(model, arguments, shares, precision, weights, steps),
        earlier_peak_bytes=peak_bytes_so_far(),
        weights_bytes=weights,
    )
    return measured_forecast(forecast, cost)


def knowledge_bytes(
    model: Any, arguments: FinetuneConfig, shares: StepShares, precision: Precision, weights_bytes: int, steps: int
) -> int:
    """What --keep_general holds on to: states of the base model, and where all weights are trained a second set."""
    if shares.general is None:
        return 0
    examples = [example for group in shares.general.groups_of(steps) for example in group]
    predictions = max(((e.first_known or 0) + int(e.supervised.sum()) for e in examples), default=0)
    width = base_model_of(model).get_input_embeddings().weight.shape[1]
    states = predictions * width * precision.compute.itemsize if shares.layout is not None else 0
    return states + (weights_bytes if arguments.tuning.method.trains_base else 0)


def memory_line(memory: MemoryForecast) -> str:
    parts = ", ".join(f"{name} {gib(size)}" for name, size in memory.parts().items() if size >= 1 << 20)
    return f"memory forecast: {gib(memory.run_peak_bytes)} at the peak ({parts})"


def kind_of_run(
    model: Any,
    arguments: FinetuneConfig,
    training: TrainingArguments,
    precision: Precision,
    *,
    packed: bool,
    kernels: str,
) -> RunKind:
    """What decides how far a forecast is off, apart from the number of records."""
    base, tuning = base_model_of(model), arguments.tuning
    return RunKind.of(
        model=base.config.model_type,
        parameters=sum(p.numel() for p in base.parameters()),
        method=tuning.peft,
        precision=precision.as_dict(),
        packed=packed,
        kernels=kernels,
        keeps_general=tuning.keep_general,
        recomputes=bool(training.activation_checkpointing),
        threads=torch.get_num_threads(),
        processes=training.world_size,
        instructions=read_machine().isa,
    )
