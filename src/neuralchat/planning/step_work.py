"""What a process computes in an optimizer step, read off its plan of batches before the first of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from neuralchat.data.step_shares import StepShare, StepShares
from neuralchat.planning.pass_cost import MicroBatchSize, SizeRule

# Steps that are laid out to be measured: some from all over the run, and those with the most tokens.
SPREAD_STEPS, LARGEST_STEPS = 24, 8


@dataclass(frozen=True)
class StepWork:
    """`micro_batches` and `work` (of pass_cost.MicroBatchSize): means over the steps of a run, of one process.

    `largest_tokens`: of any of its micro-batches, as far as it was looked.
    """

    micro_batches: float
    work: float
    largest_tokens: int


def step_work(shares: StepShares, steps: int, rule: SizeRule) -> StepWork:
    """Of the first `steps` steps, of which some are looked at."""
    spread = sorted({int(step) for step in np.linspace(0, steps - 1, min(steps, SPREAD_STEPS))})
    sizes = [list(micro_batch_sizes(shares[step], rule)) for step in spread]
    large = [size for step in fullest_steps(shares, steps) for size in micro_batch_sizes(shares[step], rule)]
    every = [size for step in sizes for size in step]
    return StepWork(
        micro_batches=len(every) / len(spread),
        work=sum(size.work for size in every) / len(spread),
        largest_tokens=max((size.tokens for size in [*every, *large]), default=0),
    )


def fullest_steps(shares: StepShares, steps: int) -> list[int]:
    """The steps of the first epoch that have the most tokens."""
    plan = shares.plan
    lengths = np.array(plan.lengths)
    units = np.array([lengths[unit].sum() for unit in plan.units])
    ordered = units[plan.epoch_order(0)]
    count = min(steps, plan.steps)
    totals = [ordered[step * plan.units_per_step : (step + 1) * plan.units_per_step].sum() for step in range(count)]
    return [int(step) for step in np.argsort(totals)[-LARGEST_STEPS:]]


def micro_batch_sizes(share: StepShare, rule: SizeRule) -> Iterator[MicroBatchSize]:
    yield from (rule.of_packed(batch) for batch in share.packed)
    yield from (rule.of_padded(examples) for examples in share.padded)
    yield from (rule.of_padded_general(examples) for examples in share.padded_general)
