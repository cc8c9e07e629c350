"""A model that cannot fit is refused before its weights are loaded, with the flags that would make it fit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from neuralchat.console import gib
from neuralchat.distributed.collectives import local_size
from neuralchat.distributed.hardware import read_machine
from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.models.loading.precision import Precision
from neuralchat.models.quantization.choosing import QuantizableWeights
from neuralchat.planning.layer_cost import (
    NO_COST,
    estimated_cost,
    extrapolated_cost,
    measurable_bytes,
    weights_of_measured_layers,
)
from neuralchat.planning.planned_memory import parts_text, planned_memory, quantizable_of, remedies
from neuralchat.planning.process_memory import settled_resident_bytes
from neuralchat.preparation.run_data import RunData

# Where weights and trained state take less of what can be had than this, it is seen after loading, which is quick then.
NEARLY_FULL = 0.7


def check_fits(run: RunData, precision: Precision, *, recomputes: bool, may_recompute: bool) -> None:
    """Raise ArgumentsError where the run would need more memory than this machine has for it.

    What other programs take now does not count: they may end.
    """
    if torch.cuda.is_available() or run.parameters is None:
        return
    limit, tuning = read_machine().memory_limit() // local_size(), run.arguments.tuning
    longest = int(run.data.trained_on.lengths.max())
    plan_with = partial(
        planned_memory,
        run.config,
        tuning,
        precision,
        parameters=run.parameters,
        longest_example_tokens=longest,
        program_bytes=settled_resident_bytes(),
        recomputes=recomputes,
    )
    # Counted on a model without weights, which takes a moment to build: not for every run that has room.
    quantizable = QuantizableWeights() if precision.bits is None else quantizable_of(run.config)
    if plan_with(NO_COST, quantizable=quantizable).peak_bytes <= NEARLY_FULL * limit:
        return
    if precision.bits is None:
        quantizable = quantizable_of(run.config)
    if weights_of_measured_layers(run.config, precision) <= measurable_bytes():
        planned = plan_with(extrapolated_cost(run.config, tuning, precision, longest), quantizable=quantizable)
    else:
        planned = plan_with(estimated_cost(run.config, precision), quantizable=quantizable)
    # What a run does by itself where it has to.
    helped = replace(planned, recomputes=True) if may_recompute else planned
    if min(planned.peak_bytes, helped.peak_bytes) <= limit:
        return
    shared = f" by each of {local_size()} processes" if local_size() > 1 else ""
    title = (
        f"this run needs about {gib(planned.peak_bytes)} of memory at its peak ({parts_text(planned.parts())}), "
        f"{gib(limit)} can be had{shared}. Nothing was loaded. To fit:"
    )
    raise ArgumentsError(problem_list(title, list(remedies(planned, limit))))
