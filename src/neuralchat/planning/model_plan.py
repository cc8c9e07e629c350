"""`neuralchat plan MODEL`: does it fit this machine, and how long do so many records take? Told before it is here.

Only the configuration is needed. The model is built with two and with three of its layers, of random weights, and what
training keeps and takes is measured on both; what a layer adds is added for the others.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from neuralchat.config.arguments import TuningArguments
from neuralchat.console import gib, show_page
from neuralchat.console.tables import Page, Part, Table
from neuralchat.console.units import counted, duration, speed
from neuralchat.distributed.hardware import read_machine
from neuralchat.errors import ArgumentsError, ModelError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.rehearsal import skeleton_of
from neuralchat.models.loading.base_model import ModelSource, load_config, parameter_counts
from neuralchat.models.loading.precision import Precision, choose_precision
from neuralchat.models.quantization.choosing import QuantizableWeights, nothing_to_quantize
from neuralchat.models.quantization.formats import kinds_of_numbers
from neuralchat.models.quiet import quiet_libraries
from neuralchat.planning.forecast import TimeForecast, ring
from neuralchat.planning.layer_cost import (
    MEASURED_LAYERS,
    extrapolated_cost,
    layer_count,
    measurable_bytes,
    weights_of_measured_layers,
)
from neuralchat.planning.model_shapes import PARAMETERS, SHAPES, llama_of, shape_named
from neuralchat.planning.planned_memory import (
    STATE_BYTES_PER_PARAMETER,
    frozen_bytes,
    parts_text,
    planned_memory,
    quantizable_of,
    remedies,
)
from neuralchat.planning.process_memory import settled_resident_bytes

# Records of an optimizer step on each machine, as finetune takes where there are enough of them.
RECORDS_PER_STEP = 16


@dataclass(frozen=True, kw_only=True)
class PlanQuestion:
    """What is asked of a plan. `model`: a directory, hub id or fetched model; or `model_config`, the name of a
    published shape, or `model_parameters`, such as 7B. `memory_gib`: of each machine; None: of this one.
    `link_gbit`: between them.
    """

    model: str | None = None
    model_config: str | None = None
    model_parameters: str | None = None
    peft: str = "lora"
    lora_rank: int = 16
    records: int = 50_000
    tokens_per_record: int = 200
    epochs: float = 3.0
    bf16: bool = False
    bits: int | None = None
    gradient_checkpointing: bool = False
    micro_batch_tokens: int = 1024
    memory_gib: float | None = None
    nodes: int = 1
    link_gbit: float = 10.0
    link_latency_us: float = 50.0

    def check(self) -> None:
        """Raises ArgumentsError for the first number that is none."""
        for flag in ("records", "tokens_per_record", "lora_rank", "micro_batch_tokens", "nodes"):
            if getattr(self, flag) < 1:
                raise ArgumentsError(f"--{flag} is {getattr(self, flag)}; give a number from 1")
        for flag in ("epochs", "link_gbit", "link_latency_us", "memory_gib"):
            value = getattr(self, flag)
            if value is not None and not value > 0:
                raise ArgumentsError(f"--{flag} is {value:g}; give a number above 0")


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """What is told of a model. Bytes are those of one machine's process at its peak, by part in `memory_parts`;
    `remedies`: what to write so that it fits, where it does not. Times and speeds are of one machine, None where not
    even a few of its layers could be measured; `cluster` has (machines, seconds, efficiency) for several.
    """

    name: str
    parameters: int
    trained_parameters: int
    layers: int
    memory_bytes: int
    memory_parts: dict[str, int]
    limit_bytes: int
    precision: Precision
    tokens_per_s: float | None = None
    seconds: float | None = None
    remedies: tuple[str, ...] = ()
    notice: str | None = None
    cluster: tuple[tuple[int, float, float], ...] = field(default=())

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.limit_bytes


def plan_model(options: argparse.Namespace) -> int:
    """The verb `plan` where it is given a model. Raises ArgumentsError and ModelError."""
    question = asked_of_plan(options)
    with quiet_libraries():
        show_page(Page(plan_lines(question, make_plan(question))))
    return 0


def asked_of_plan(options: argparse.Namespace) -> PlanQuestion:
    if not options.nodes.isdigit():
        raise ArgumentsError(f"--nodes is '{options.nodes}'; with a model, give the number of machines")
    return PlanQuestion(
        model=options.model or options.model_name_or_path,
        model_config=options.model_config,
        model_parameters=options.model_parameters,
        peft=options.peft,
        lora_rank=options.lora_rank,
        records=options.records,
        tokens_per_record=options.tokens_per_record,
        epochs=options.epochs,
        bf16=options.bf16,
        bits=options.bits,
        gradient_checkpointing=options.gradient_checkpointing,
        micro_batch_tokens=options.micro_batch_tokens,
        memory_gib=options.memory_gib,
        nodes=int(options.nodes),
        link_gbit=options.link_gbit,
        link_latency_us=options.link_latency_us,
    )


def make_plan(question: PlanQuestion) -> ModelPlan:
    """Raises ArgumentsError and ModelError."""
    question.check()
    name, config = named_config(question.model, question.model_parameters, question.model_config)
    tuning = TuningArguments(
        peft=question.peft,
        lora_rank=question.lora_rank,
        micro_batch_tokens=question.micro_batch_tokens,
        lora_init="default",
    )
    whole = tuning.method.trains_base
    precision, notice = choose_precision(bf16=question.bf16, trains_base=whole, bits=question.bits)
    quantizable = QuantizableWeights() if whole else quantizable_of(config)
    if question.bits is not None and not quantizable.count:
        what = "a model whose weights are all trained" if whole else f"a {config.model_type} model"
        raise ArgumentsError(nothing_to_quantize(what, question.bits))
    with torch.device("meta"):
        trained, total = parameter_counts(add_adapter(skeleton_of(config), tuning, tell=lambda _text: None))
    machine = read_machine()
    limit = machine.memory_limit() if question.memory_gib is None else int(question.memory_gib * 2**30)
    plan = ModelPlan(
        name=name,
        parameters=total,
        trained_parameters=trained,
        layers=layer_count(config),
        memory_bytes=0,
        memory_parts={},
        limit_bytes=limit,
        precision=precision,
        notice=notice,
    )
    if weights_of_measured_layers(config, precision) > measurable_bytes():
        return plan_of_a_far_larger_model(plan, whole=whole, quantizable=quantizable)
    program = settled_resident_bytes()
    cost = extrapolated_cost(config, tuning, precision, question.tokens_per_record)
    planned = planned_memory(
        config,
        tuning,
        precision,
        cost,
        parameters=(trained, total),
        quantizable=quantizable,
        longest_example_tokens=question.tokens_per_record,
        program_bytes=program,
        recomputes=question.gradient_checkpointing,
    )
    peak = planned.peak_bytes
    tokens = question.records * question.tokens_per_record * question.epochs
    # A layer is computed a third time, of a forward and a backward pass that is as long as two.
    seconds_per_token = cost.seconds * (4 / 3 if question.gradient_checkpointing else 1)
    return replace(
        plan,
        memory_bytes=peak,
        memory_parts=planned.parts(),
        tokens_per_s=1 / seconds_per_token,
        seconds=tokens * seconds_per_token,
        remedies=() if peak <= limit else tuple(remedies(planned, limit)),
        cluster=tuple(cluster_rows(question, seconds_per_token, trained)),
    )


def plan_of_a_far_larger_model(plan: ModelPlan, *, whole: bool, quantizable: QuantizableWeights) -> ModelPlan:
    """What can be said of a model of which not even a few layers are measured here: its weights and what is trained."""
    frozen, precision = 0 if whole else plan.parameters, plan.precision
    weights = frozen_bytes(frozen, quantizable, precision.storage.itemsize, precision.bits)
    parts = {
        "weights": weights,
        "what is trained": plan.trained_parameters * (STATE_BYTES_PER_PARAMETER + (4 if whole else 0)),
    }
    return replace(plan, memory_bytes=sum(parts.values()), memory_parts=parts)


def cluster_rows(question: PlanQuestion, seconds_per_token: float, trained: int) -> list[tuple[int, float, float]]:
    """(machines, seconds in all, speed over that of so many machines that need not talk) for 1, 2, 4, ... of them."""
    rows = []
    tokens = question.records * question.tokens_per_record * question.epochs
    counts = {1 << power for power in range(question.nodes.bit_length())} | {question.nodes}
    for nodes in sorted(counts) if question.nodes > 1 else ():
        per_step = RECORDS_PER_STEP * question.tokens_per_record * nodes
        forecast = TimeForecast(
            steps=max(1, round(tokens / per_step)),
            tokens_per_step=per_step,
            seconds_per_token=seconds_per_token,
            world_size=nodes,
            gradient_bytes=4 * trained,
            link=ring(nodes, question.link_gbit, question.link_latency_us * 1e-6),
        )
        rows.append((nodes, forecast.training_seconds, 1 - forecast.communication_share))
    return rows


def named_config(name: str | None, parameters: str | None, shape: str | None = None) -> tuple[str, Any]:
    """(what to call the model, its configuration). Raises ModelError, saying what is enough, where it cannot be had."""
    if shape is not None and shape.lower() not in SHAPES and os.path.isdir(shape):
        return shape, load_config(ModelSource(name=shape), needs_weights=False)
    # `plan llama-7b` is about the published one, unless such a directory is here.
    if name and shape is None and name.lower() in SHAPES and not os.path.isdir(name):
        shape = name
    if shape is not None:
        return shape, shape_named(shape)
    # `plan 7B` is about any model of that size.
    if name and parameters is None and PARAMETERS.fullmatch(name) and not name.isdigit():
        name, parameters = None, name
    if name:
        try:
            return name, load_config(ModelSource(name=name), needs_weights=False)
        except ModelError as error:
            if parameters is None:
                raise ModelError(
                    f"{error}\nIts number of parameters is enough for a plan: neuralchat plan --model_parameters 7B"
                ) from error
    if parameters is None:
        raise ArgumentsError("neuralchat plan: name a model, or give --model_config or --model_parameters")
    return f"a model of {parameters} parameters, of the shape of LLaMA", llama_of(parameters)


# The text


def plan_lines(question: PlanQuestion, plan: ModelPlan) -> list[Part]:
    dtype = weight_numbers(plan.precision)
    fits = "it fits" if plan.fits else "it does not fit"
    what = "this machine has" if question.memory_gib is None else "the machine has"
    lines: list[Part] = [
        f"{plan.name}: {counted(plan.parameters)} parameters in {plan.layers} layers, of which {question.peft} trains "
        f"{counted(plan.trained_parameters)}"
    ]
    if plan.seconds is None or plan.tokens_per_s is None:
        return [
            *lines,
            f"memory: more than {gib(plan.memory_bytes)} for the weights, in {dtype}, and what is trained alone; "
            f"{what} {gib(plan.limit_bytes)}: "
            + (fits if not plan.fits else "whether it fits depends on what is not measured"),
            f"speed and time: not measured, since {MEASURED_LAYERS[1]} of its layers are too large for this machine; "
            "plan on the machine that is to train",
        ]
    lines += [
        f"memory: about {gib(plan.memory_bytes)} at the peak, weights in {dtype}; {what} {gib(plan.limit_bytes)}: "
        f"{fits}",
        f"  {parts_text(plan.memory_parts)}",
        *(f"  to fit: {text}" for text in plan.remedies),
        f"speed: about {speed(plan.tokens_per_s)} tokens/s with {torch.get_num_threads()} thread(s), measured with "
        f"{MEASURED_LAYERS[0]} and {MEASURED_LAYERS[1]} layers of its kind",
        f"time: about {duration(plan.seconds)} for {question.records:,} records of "
        f"{question.tokens_per_record} tokens, {question.epochs:g} times each (--records, --tokens_per_record, "
        "--epochs)",
    ]
    if plan.notice:
        lines.append(f"  {plan.notice}")
    return [*lines, *cluster_part(question, plan.cluster)]


def weight_numbers(precision: Precision) -> str:
    """
    >>> weight_numbers(Precision(storage=torch.bfloat16, compute=torch.bfloat16, bits=4))
    'nf4, int8 and bfloat16'
    """
    dtype = str(precision.storage).removeprefix("torch.")
    return dtype if precision.bits is None else f"{kinds_of_numbers(precision.bits)} and {dtype}"


def cluster_part(question: PlanQuestion, rows: Sequence[tuple[int, float, float]]) -> list[Part]:
    if not rows:
        return []
    title = (
        f"a forecast for machines like this one, with {RECORDS_PER_STEP} records a step on each and links of "
        f"{question.link_gbit:g} Gbit/s and {question.link_latency_us:g} microseconds (--link_gbit, --link_latency_us):"
    )
    table = Table(
        ["machines", "time", "speed over ideal"],
        [(str(nodes), duration(seconds), f"{share:.1%}") for nodes, seconds, share in rows],
    )
    return [title, table]
