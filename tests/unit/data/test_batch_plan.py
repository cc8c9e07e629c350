"""data/batch_plan.py: every unit once an epoch, rows by best fit, shares that add up to the step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralchat.data import batch_plan
from neuralchat.data.batch_plan import BatchPlan, best_fit_rows, share_of_rank

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=40)


def plan_of(lengths: Sequence[int], **changes: object) -> BatchPlan:
    options: dict[str, object] = {"fingerprint": "f", "seed": 42, "units_per_step": 4, **changes}
    return BatchPlan(lengths=tuple(lengths), **options)  # type: ignore[arg-type]


def epoch_of(plan: BatchPlan, epoch: int) -> list[int]:
    return [index for step in range(plan.steps) for unit in plan.step(epoch, step) for index in unit]


@given(lengths=LENGTHS, size=st.integers(1, 9), epoch=st.integers(0, 3), row=st.none() | st.integers(1, 60))
def test_an_epoch_has_every_example_once(lengths: list[int], size: int, epoch: int, row: int | None) -> None:
    plan = plan_of(lengths, units_per_step=size, row_tokens=row)
    assert sorted(epoch_of(plan, epoch)) == list(range(len(lengths)))
    sizes = [len(plan.step(epoch, step)) for step in range(plan.steps)]
    assert all(found == size for found in sizes[:-1])
    assert 1 <= sizes[-1] <= size


@pytest.mark.parametrize(("examples", "drop", "steps"), [(8, False, 2), (9, False, 3), (9, True, 2), (3, True, 0)])
def test_steps_of_an_epoch(examples: int, drop: bool, steps: int) -> None:
    plan = plan_of([1] * examples, drop_last=drop)
    assert plan.steps == steps
    assert len(epoch_of(plan, 0)) == (steps * 4 if drop else examples)


def test_plan_is_the_same_on_every_start() -> None:
    lengths = list(range(1, 60))
    plans = [plan_of(lengths, row_tokens=70) for _ in range(2)]
    assert plans[0].units == plans[1].units
    assert epoch_of(plans[0], 3) == epoch_of(plans[1], 3)


@pytest.mark.parametrize("change", [{"seed": 43}, {"fingerprint": "g"}])
def test_order_follows_seed_and_data(change: dict[str, object]) -> None:
    assert epoch_of(plan_of([1] * 50), 0) != epoch_of(plan_of([1] * 50, **change), 0)


def test_epochs_differ_but_their_units_do_not() -> None:
    plan = plan_of([5] * 50, row_tokens=20)
    assert epoch_of(plan, 0) != epoch_of(plan, 1)
    units = [Counter(tuple(u) for s in range(plan.steps) for u in plan.step(epoch, s)) for epoch in (0, 1)]
    assert units[0] == units[1]


def test_batch_size_does_not_change_the_order() -> None:
    assert epoch_of(plan_of([1] * 50), 2) == epoch_of(plan_of([1] * 50, units_per_step=7), 2)


def test_sequential_order() -> None:
    plan = plan_of([3] * 6, order="sequential")
    assert [plan.step(1, step) for step in (0, 1)] == [[[0], [1], [2], [3]], [[4], [5]]]


@given(lengths=LENGTHS, size=st.integers(1, 3), epoch=st.integers(0, 2))
def test_group_by_length_sorts_within_chunks(lengths: list[int], size: int, epoch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_plan, "GROUPED_STEPS", 4)
        grouped = epoch_of(plan_of(lengths, units_per_step=size, order="group_by_length"), epoch)
    shuffled = epoch_of(plan_of(lengths, units_per_step=size), epoch)
    for start in range(0, len(lengths), 4 * size):
        chunk = grouped[start : start + 4 * size]
        assert sorted(chunk) == sorted(shuffled[start : start + 4 * size])
        assert [lengths[i] for i in chunk] == sorted((lengths[i] for i in chunk), reverse=True)


def best_fit_by_search(items: Sequence[tuple[int, int]], row_tokens: int) -> list[int]:
    """Free tokens of each row, by looking at every row for every item."""
    free: list[int] = []
    for _, length in items:
        fitting = [left for left in free if left >= length]
        if fitting:
            free.remove(min(fitting))
            free.append(min(fitting) - length)
        else:
            free.append(row_tokens - length)
    return sorted(free)


@given(lengths=LENGTHS, row=st.integers(1, 60))
def test_rows_lose_nothing_and_keep_the_limit(lengths: list[int], row: int) -> None:
    rows = best_fit_rows(list(enumerate(lengths)), row)
    assert sorted(index for found in rows for index in found) == list(range(len(lengths)))
    for found in rows:
        # An example that is longer than a row has one by itself.
        assert sum(lengths[i] for i in found) <= max(row, lengths[found[0]])


@given(lengths=LENGTHS, row=st.integers(1, 60))
def test_rows_are_those_of_best_fit(lengths: list[int], row: int) -> None:
    items = list(enumerate(lengths))
    found = sorted(row - sum(lengths[i] for i in indices) for indices in best_fit_rows(items, row))
    assert found == best_fit_by_search(items, row)


def test_item_goes_where_it_leaves_least_room() -> None:
    assert best_fit_rows([(0, 6), (1, 8), (2, 2), (3, 4), (4, 11)], 10) == [[0, 3], [1, 2], [4]]


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    lengths = draw(LENGTHS)
    cuts = sorted(draw(st.sets(st.integers(1, len(lengths)), max_size=8)) | {len(lengths)})
    return [list(range(a, b)) for a, b in zip([0, *cuts], cuts, strict=False)], lengths


@given(step=steps(), world=st.integers(1, 7))
def test_shares_of_all_ranks_are_the_step(step: tuple[list[list[int]], list[int]], world: int) -> None:
    units, lengths = step
    shares = [share_of_rank(units, lengths, rank, world) for rank in range(world)]
    assert sorted(unit for share in shares for unit in share) == sorted(units)


@given(step=steps(), world=st.integers(1, 7))
def test_shares_are_balanced(step: tuple[list[list[int]], list[int]], world: int) -> None:
    """Longest first to the least loaded: no two ranks differ by more than one unit."""
    units, lengths = step
    costs = [sum(lengths[i] for i in unit) for unit in units]
    loads = [
        sum(lengths[i] for unit in share_of_rank(units, lengths, rank, world) for i in unit) for rank in range(world)
    ]
    assert max(loads) - min(loads) <= max(costs)


def test_share_of_a_rank_with_nothing_to_do() -> None:
    assert [share_of_rank([[0], [1, 2]], [5, 1, 1], rank, 3) for rank in range(3)] == [[[0]], [[1, 2]], []]
