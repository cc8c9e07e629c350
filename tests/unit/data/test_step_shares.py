"""A rank's items are the plan's steps, whoever loads them; nothing is lost between micro-batches."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch

from neuralchat.data.batch_plan import BatchPlan
from neuralchat.data.layout import Layout
from neuralchat.data.step_shares import StepLoader, StepShares, split_padded
from neuralchat.data.tokenization import Example
from neuralchat.errors import DataError


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


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch looks every five seconds whether its workers live, which is all that these tests would do."""
    waiting = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    assert len(waiting.__defaults__) == 1
    monkeypatch.setattr(waiting, "__defaults__", (0.1,))


@pytest.mark.slow
@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("persistent", [False, True])
def test_a_worker_that_is_killed_is_replaced(persistent: bool, said: list[str]) -> None:
    """No share is left out or given twice, and no random number is drawn that an undisturbed run does not draw."""
    plan = BatchPlan("f", (3,) * 48, seed=1, units_per_step=4)
    shares = StepShares(examples_of([3] * 48), plan, rank=0, world_size=1, micro_batch_tokens=100, layout=Layout())
    orders, randoms = [], []
    for victim in (None, 0, 1):
        loader, order = StepLoader(shares, workers=2, persistent=persistent, prefetch=1), []
        torch.manual_seed(3)
        for number, share in enumerate(loader.steps(0, plan.steps)):
            order.append([batch.sources for batch in share.packed])
            if number == 3 and victim is not None:
                loader.workers[victim].kill()
        orders.append(order)
        randoms.append(torch.rand(1).item())
    assert len(orders[0]) == plan.steps
    assert orders[1] == orders[2] == orders[0]
    assert len(set(randoms)) == 1
    assert len([text for text in said if "was killed" in text]) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("looks_often")
def test_workers_that_are_killed_again_and_again_end_it() -> None:
    class Deadly(StepShares):
        def __getitem__(self, index: int) -> Any:
            if index == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(index)

    plan = BatchPlan("f", (3,) * 12, seed=1, units_per_step=4)
    shares = Deadly(examples_of([3] * 12), plan, rank=0, world_size=1, micro_batch_tokens=100, layout=Layout())
    with pytest.raises(DataError, match="--dataloader_num_workers 0"):
        list(StepLoader(shares, workers=2).steps(0, 3))


def test_padded_batches_stay_within_the_budget_with_their_padding() -> None:
    examples = examples_of([9, 2, 5, 5, 30, 1])
    batches = split_padded(examples, 12)
    assert [[len(e.input_ids) for e in batch] for batch in batches] == [[30], [9], [5, 5], [2, 1]]
    assert sorted(e.source for batch in batches for e in batch) == sorted(e.source for e in examples)
