"""A rank's items are the plan's steps, whoever loads them; nothing is lost between micro-batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neuralchat.data.batch_plan import BatchPlan
from neuralchat.data.layout import Layout
from neuralchat.data.step_shares import StepLoader, StepShares, split_padded
from neuralchat.data.tokenization import Example


def examples_of(lengths: list[int]) -> Any:
    return [Example(np.full(n, i, dtype=np.int32), np.arange(n) > 0, f"row {i}") for i, n in enumerate(lengths)]


@pytest.mark.parametrize("workers", [0, 2])
def test_order_does_not_depend_on_workers(workers: int) -> None:
    """Every epoch has an order of its own, the plan's, also with workers that live on over epochs."""
    plan = BatchPlan("f", (3,) * 12, seed=1, units_per_step=4)
    shares = StepShares(examples_of([3] * 12), plan, rank=0, world_size=1, micro_batch_tokens=100, layout=Layout())
    loader = StepLoader(shares, workers=workers, persistent=bool(workers))
    orders = []
    for epoch in (0, 1):
        first = epoch * plan.steps
        found = loader.steps(first, first + plan.steps)
        orders.append([sorted(batch.sources) for share in found for batch in share.packed])
        expected = [sorted(f"row {i}" for unit in plan.step(epoch, step) for i in unit) for step in range(plan.steps)]
        assert orders[-1] == expected
    assert orders[0] != orders[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_smaller_micro_batches_hold_from_the_next_pass_on(workers: int) -> None:
    """Workers that live on over epochs, too, have the new size."""
    plan = BatchPlan("f", (6,) * 4, seed=1, units_per_step=4)
    shares = StepShares(examples_of([6] * 4), plan, rank=0, world_size=1, micro_batch_tokens=24, layout=None)
    loader = StepLoader(shares, workers=workers, persistent=bool(workers))
    assert [share.micro_batches for share in loader.steps(0, 1)] == [1]
    loader.set_micro_batch_tokens(12)
    assert [share.micro_batches for share in loader.steps(1, 2)] == [2]


def test_padded_batches_stay_within_the_budget_with_their_padding() -> None:
    examples = examples_of([9, 2, 5, 5, 30, 1])
    batches = split_padded(examples, 12)
    assert [[len(e.input_ids) for e in batch] for batch in batches] == [[30], [9], [5, 5], [2, 1]]
    assert sorted(e.source for batch in batches for e in batch) == sorted(e.source for e in examples)
