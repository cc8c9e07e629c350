"""data/packing.py: from a packed row every example can be read back, tokens, positions and targets."""

from __future__ import annotations

import doctest
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuralchat.data import packing
from neuralchat.data.packing import MIN_SHARED_TOKENS, PackedBatch, Segment, pack, split_by_tokens, split_into_groups
from neuralchat.data.tokenization import Example

Content = tuple[tuple[int, ...], tuple[tuple[int, int], ...], str]


def example_of(ids: list[int], targets: list[int], source: str = "") -> Example:
    supervised = np.zeros(len(ids), dtype=bool)
    supervised[targets] = True
    return Example(np.array(ids, dtype=np.int32), supervised, source)


@st.composite
def examples_that_begin_alike(draw: st.DrawFn) -> list[Example]:
    """Few tokens and beginnings from a small stock, so that long common beginnings and equal examples occur."""
    beginning = st.sampled_from([[], [1] * 9, [1] * 9 + [2] * 12, [1] * 9 + [2] * 3, [300, 70_000] * 5])
    bodies = st.lists(st.integers(0, 2), min_size=2, max_size=12)
    examples = []
    for number in range(draw(st.integers(1, 9))):
        ids = draw(beginning) + draw(bodies)
        targets = sorted(draw(st.sets(st.integers(1, len(ids) - 1), min_size=1)))
        examples.append(example_of(ids, targets, f"row {number}"))
    return examples


def content(found: Example) -> Content:
    """(ids, (index of the predicting token, target) of each supervised token, source)."""
    targets = np.flatnonzero(found.supervised)
    pairs = tuple((int(t) - 1, int(found.input_ids[t])) for t in targets)
    return tuple(found.input_ids.tolist()), pairs, found.source


def unpacked(batch: PackedBatch) -> Counter[tuple[tuple[int, ...], str]]:
    """Read (ids, source) of the examples back by what the docstring says, without any code of packing."""
    used_as_prefix = {(s.prefix_start, s.prefix_end) for s in batch.segments if s.prefix_end > s.prefix_start}
    own = [s for s in batch.segments if (s.start, s.end) not in used_as_prefix]
    found: Counter[tuple[tuple[int, ...], str]] = Counter()
    for segment, source in zip(own, batch.sources, strict=True):
        places = [*range(segment.prefix_start, segment.prefix_end), *range(segment.start, segment.end)]
        assert batch.position_ids[places].tolist() == list(range(len(places)))
        found[tuple(batch.input_ids[places].tolist()), source] += 1
    return found


@pytest.mark.parametrize("share", [True, False])
@given(examples=examples_that_begin_alike())
def test_every_example_is_in_the_row_exactly_once(share: bool, examples: list[Example]) -> None:
    batch = pack(examples, share_prefix=share)
    expected = [content(e) for e in examples]
    assert unpacked(batch) == Counter((ids, source) for ids, _, source in expected)
    assert batch.tokens == sum(len(ids) for ids, _, _ in expected)
    assert batch.supervised_tokens == sum(len(pairs) for _, pairs, _ in expected)


@pytest.mark.parametrize("share", [True, False])
@given(examples=examples_that_begin_alike())
def test_every_target_is_predicted_from_its_own_context(share: bool, examples: list[Example]) -> None:
    """What a position sees is its segment's prefix and its own segment up to itself."""
    batch = pack(examples, share_prefix=share)
    seen = Counter()
    for position, token in zip(batch.target_positions.tolist(), batch.target_ids.tolist(), strict=True):
        segment = next(s for s in batch.segments if s.start <= position < s.end)
        places = [*range(segment.prefix_start, segment.prefix_end), *range(segment.start, position + 1)]
        seen[(tuple(batch.input_ids[places].tolist()), token)] += 1
    expected = Counter(
        (ids[: before + 1], token) for ids, pairs, _ in map(content, examples) for before, token in pairs
    )
    assert seen == expected


@pytest.mark.parametrize("share", [True, False])
@given(examples=examples_that_begin_alike())
def test_segments_tile_the_row(share: bool, examples: list[Example]) -> None:
    batch = pack(examples, share_prefix=share)
    edges = [0, *(s.end for s in batch.segments)]
    assert [s.start for s in batch.segments] == edges[:-1]
    assert edges[-1] == len(batch.input_ids) == len(batch.position_ids)
    assert all(s.start < s.end and s.prefix_start <= s.prefix_end <= s.start for s in batch.segments)
    assert batch.input_ids.dtype == batch.position_ids.dtype == batch.target_ids.dtype == np.int64


@given(examples=examples_that_begin_alike())
def test_sharing_only_ever_saves_tokens(examples: list[Example]) -> None:
    shared, alone = pack(examples), pack(examples, share_prefix=False)
    assert len(alone.input_ids) == alone.tokens == shared.tokens
    assert len(shared.input_ids) <= len(alone.input_ids)
    assert all(s.prefix_start == s.prefix_end for s in alone.segments)


def test_worked_example_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MIN_SHARED_TOKENS", 2)
    a, b, c, d, e, x, y = range(1, 8)
    batch = pack([example_of([a, b, c, d], [3]), example_of([a, b, e], [1, 2]), example_of([x, y], [1])])
    assert batch.input_ids.tolist() == [a, b, c, d, e, x, y]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert batch.segments == (Segment(0, 0, 0, 2), Segment(0, 2, 2, 4), Segment(0, 2, 4, 5), Segment(5, 5, 5, 7))
    # d after c, b after a, e after the shared b, y after x
    assert batch.target_positions.tolist() == [2, 0, 1, 5]
    assert batch.target_ids.tolist() == [d, b, e, y]
    assert batch.tokens == 9


def test_doctests() -> None:
    outcome = doctest.testmod(packing)
    assert outcome.attempted >= 1
    assert outcome.failed == 0


def test_equal_examples_keep_a_token_of_their_own() -> None:
    batch = pack([example_of([5] * 20, [19], "a"), example_of([5] * 20, [19], "b")])
    assert [(s.end - s.start) for s in batch.segments] == [19, 1, 1]
    assert batch.target_positions.tolist() == [18, 18]


@pytest.mark.parametrize(("shared", "segments"), [(MIN_SHARED_TOKENS - 1, 2), (MIN_SHARED_TOKENS, 3)])
def test_short_beginnings_are_not_shared(shared: int, segments: int) -> None:
    batch = pack([example_of([1] * shared + [2, 3], [1]), example_of([1] * shared + [4, 5], [1])])
    assert len(batch.segments) == segments


@given(common=st.lists(st.integers(0, 60), max_size=20))
def test_groups_partition_and_share_what_all_have(common: list[int]) -> None:
    groups = split_into_groups(common)
    edges = [0, *(last for _, last, _ in groups)]
    assert [first for first, _, _ in groups] == edges[:-1]
    assert edges[-1] == len(common) + 1
    for first, last, shared in groups:
        assert shared == min(common[first : last - 1], default=0)
        assert (last - first > 1) == (shared >= MIN_SHARED_TOKENS)


BUDGETS = st.integers(5, 80)
EQUAL = [example_of([1] * 30, [29]) for _ in range(6)]
# Neighbours have 12 and 40 tokens in common; one group can share 12 only.
UNEQUAL = [
    example_of([1] * 12 + [2] * 40, [1]),
    example_of([1] * 12 + [3] * 28 + [4] * 8, [1]),
    example_of([1] * 12 + [3] * 28 + [5] * 8, [1]),
]


@given(examples=examples_that_begin_alike(), budget=BUDGETS)
def test_splitting_a_step_loses_nothing(examples: list[Example], budget: int) -> None:
    batches = split_by_tokens(examples, budget)
    assert all(batches)
    assert Counter(content(e) for batch in batches for e in batch) == Counter(map(content, examples))


@given(examples=examples_that_begin_alike(), budget=BUDGETS)
@example(examples=EQUAL, budget=40)
@example(examples=UNEQUAL, budget=78)
def test_micro_batches_compute_at_most_the_budget(examples: list[Example], budget: int) -> None:
    for batch in split_by_tokens(examples, budget):
        # An example that is longer than the budget is a micro-batch by itself.
        assert len(pack(batch).input_ids) <= max(budget, len(batch[0].input_ids))


@given(examples=examples_that_begin_alike())
def test_one_micro_batch_where_all_fits(examples: list[Example]) -> None:
    assert len(split_by_tokens(examples, sum(len(e.input_ids) for e in examples))) == 1


def test_examples_that_begin_alike_meet() -> None:
    left, right = [example_of([k] * 20 + [i], [20]) for k in (1, 2) for i in (3, 4)], []
    for batch in split_by_tokens([left[0], left[2], left[1], left[3]], 25):
        right.append([int(e.input_ids[0]) for e in batch])
    assert right == [[1, 1], [2, 2]]


def test_virtual_tokens_in_the_row_are_laid_once_for_each_beginning() -> None:
    from neuralchat.data.packing import VirtualTokens

    beginning = list(range(10, 10 + MIN_SHARED_TOKENS))
    examples = [
        example_of([*beginning, 1, 2], [9]), example_of([*beginning, 3], [8]), example_of([4, 5], [1]),
        example_of([6, 7], [1]),
    ]  # fmt: skip
    batch = pack(examples, virtual=VirtualTokens(2, in_row=True))
    assert batch.input_ids.tolist() == [-1, -2, 4, 5, 6, 7, -1, -2, *beginning, 1, 2, 3]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 2, 3, *range(10), 10, 11, 10]
    assert [(s.prefix_start, s.prefix_end, s.start, s.end) for s in batch.segments] == [
        (0, 0, 0, 2), (0, 2, 2, 4), (0, 2, 4, 6), (6, 6, 6, 16), (6, 16, 16, 18), (6, 16, 18, 19),
    ]  # fmt: skip
    assert batch.target_positions.tolist() == [2, 4, 16, 15]
    assert batch.tokens == 10 + 9 + 2 + 2


def test_virtual_tokens_before_the_row_only_move_positions() -> None:
    from neuralchat.data.packing import VirtualTokens

    batch = pack([example_of([4, 5], [1]), example_of([6, 7, 8], [1])], virtual=VirtualTokens(3, in_row=False))
    assert batch.input_ids.tolist() == [4, 5, 6, 7, 8]
    assert batch.position_ids.tolist() == [3, 4, 3, 4, 5]


def test_virtual_tokens_count_for_the_budget() -> None:
    from neuralchat.data.packing import VirtualTokens

    virtual = VirtualTokens(6, in_row=True)
    examples = [example_of([10 * i, 1, 2, 3], [3]) for i in range(1, 7)]
    batches = split_by_tokens(examples, 14, virtual)
    assert [len(batch) for batch in batches] == [2, 2, 2]
    assert all(len(pack(batch, virtual=virtual).input_ids) <= 14 for batch in batches)
