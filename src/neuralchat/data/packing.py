"""Example -> PackedBatch: examples laid end to end with no padding, common beginnings laid once.

A batch is one row of T tokens, cut into segments. Attention of a segment sees its prefix and itself, never a
neighbour; positions restart after the prefix. Three examples, of which two begin alike:

    examples    [a b c d]  [a b e]  [x y]
    row          a b | c d | e | x y
    positions    0 1   2 3   2   0 1
    segments     prefix [0,2), then [2,4) and [4,5) that attend to it, then [5,7) alone

Virtual tokens of prompt learning are a prefix too. Those that enter as embeddings are laid in the row, with ids -1,
-2, ..., at the head of each prefix, so that they are computed once for all that share it; those that enter as keys and
values lead the whole row and take no place in it. Either way the text's positions begin after them.

Targets are listed, not aligned with the row: the token that follows position p in some example is predicted
from the hidden state at p, and a shared position may predict several different tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from neuralchat.data.tokenization import Example

# A shared beginning shorter than this saves less than the extra segment costs.
MIN_SHARED_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, end) of the row, which attend to [prefix_start, prefix_end) and causally to themselves."""

    prefix_start: int
    prefix_end: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class VirtualTokens:
    """`count` virtual tokens before every example; `in_row`: they enter as embeddings, not as keys and values."""

    count: int = 0
    in_row: bool = False

    @property
    def laid(self) -> int:
        """Tokens of the row that they take for each prefix."""
        return self.count if self.in_row else 0


NO_VIRTUAL_TOKENS = VirtualTokens()


NO_PLACES = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One row. input_ids, position_ids: int64 [T]. target_*: [N], one for each supervised token of an example.

    Those of general prompts, which are not learned, are in compared_*: int64 [M], the position that predicts and the
    number of what the base model says there. `tokens` counts the tokens of all other examples as if nothing were
    shared; T is what is computed. `segment_sources`: the record of each segment; none of what several share.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    segments: tuple[Segment, ...]
    target_positions: np.ndarray
    target_ids: np.ndarray
    sources: tuple[str, ...]
    tokens: int
    compared_positions: np.ndarray = field(default_factory=lambda: NO_PLACES)
    compared_numbers: np.ndarray = field(default_factory=lambda: NO_PLACES)
    segment_sources: tuple[str, ...] = ()

    @property
    def supervised_tokens(self) -> int:
        return len(self.target_ids)


def pack(
    examples: Sequence[Example], *, virtual: VirtualTokens = NO_VIRTUAL_TOKENS, share_prefix: bool = True
) -> PackedBatch:
    """Lay `examples` into one row. With `share_prefix`, common beginnings found on token ids are laid once."""
    groups = shared_groups(examples) if share_prefix else [(0, [example]) for example in examples]
    row = RowBuilder(virtual)
    for shared, members in groups:
        row.add_group(shared, members)
    return row.build()


class RowBuilder:
    """Collects segments, positions and targets of one row, group by group."""

    def __init__(self, virtual: VirtualTokens) -> None:
        self.virtual = virtual
        # Where virtual tokens lie with no text behind them, for all examples that share none.
        self.only_virtual: tuple[int, int] | None = None
        self.length = 0
        self.ids: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.segments: list[Segment] = []
        self.segment_sources: list[str] = []
        self.target_positions: list[np.ndarray] = []
        self.target_ids: list[np.ndarray] = []
        self.compared_positions: list[np.ndarray] = [NO_PLACES]
        self.compared_numbers: list[np.ndarray] = [NO_PLACES]
        self.sources: list[str] = []
        self.tokens = 0

    def add_tokens(self, ids: np.ndarray, first_position: int, prefix: tuple[int, int], source: str = "") -> int:
        """Lay a segment; returns where it starts in the row."""
        start = self.length
        self.ids.append(ids)
        self.positions.append(np.arange(first_position, first_position + len(ids)))
        self.segments.append(Segment(*prefix, start, start + len(ids)))
        self.segment_sources.append(source)
        self.length += len(ids)
        return start

    def add_prefix(self, shared_ids: np.ndarray) -> tuple[int, int]:
        """Lay virtual tokens and a common beginning; returns where they lie, an empty range if there are none."""
        laid = self.virtual.laid
        if not len(shared_ids) and self.only_virtual is not None:
            return self.only_virtual
        ids = np.concatenate([-1 - np.arange(laid), shared_ids])
        start = self.length
        if len(ids):
            self.add_tokens(ids, self.virtual.count - laid, (start, start))
        place = (start, start + len(ids))
        if laid and not len(shared_ids):
            self.only_virtual = place
        return place

    def add_group(self, shared: int, members: Sequence[Example]) -> None:
        """Lay the first `shared` tokens once, then the rest of each member."""
        prefix = self.add_prefix(members[0].input_ids[:shared])
        text_start = prefix[1] - shared
        for member in members:
            start = self.add_tokens(member.input_ids[shared:], self.virtual.count + shared, prefix, member.source)
            # Where token i of the member lies in the row; its target is predicted from token i - 1.
            place = np.arange(len(member.input_ids))
            place = np.where(place < shared, text_start + place, start + place - shared)
            targets = np.flatnonzero(member.supervised)
            if member.first_known is not None:
                self.compared_positions.append(place[targets - 1])
                self.compared_numbers.append(member.first_known + np.arange(len(targets)))
                continue
            self.target_positions.append(place[targets - 1])
            self.target_ids.append(member.input_ids[targets])
            self.sources.append(member.source)
            self.tokens += len(member.input_ids)

    def build(self) -> PackedBatch:
        return PackedBatch(
            input_ids=np.concatenate(self.ids).astype(np.int64),
            position_ids=np.concatenate(self.positions).astype(np.int64),
            segments=tuple(self.segments),
            target_positions=np.concatenate([NO_PLACES, *self.target_positions]).astype(np.int64),
            target_ids=np.concatenate([NO_PLACES, *self.target_ids]).astype(np.int64),
            sources=tuple(self.sources),
            tokens=self.tokens,
            compared_positions=np.concatenate(self.compared_positions).astype(np.int64),
            compared_numbers=np.concatenate(self.compared_numbers).astype(np.int64),
            segment_sources=tuple(self.segment_sources),
        )


def shared_groups(examples: Sequence[Example]) -> list[tuple[int, list[Example]]]:
    """(shared tokens, members) of each group, members sorted by their token ids.

    Sorted neighbours with a long common beginning form a group; a range is one group if that saves more tokens
    than the best split at its weakest point.
    """
    ordered = sorted(examples, key=sort_key)
    common = [shareable(a, b) for a, b in pairwise(ordered)]
    return [(shared, ordered[first:last]) for first, last, shared in split_into_groups(common)]


def sort_key(example: Example) -> bytes:
    # Big-endian bytes compare as the ids do.
    return example.input_ids.astype(">i4").tobytes()


def shareable(a: Example, b: Example) -> int:
    """Length of the common beginning; each keeps at least one token of its own."""
    size = min(len(a.input_ids), len(b.input_ids)) - 1
    different = np.flatnonzero(a.input_ids[:size] != b.input_ids[:size])
    return int(different[0]) if len(different) else size


def split_into_groups(common: Sequence[int]) -> list[tuple[int, int, int]]:
    """Groups (first, last, shared tokens) of len(common) + 1 sorted examples; common[i] is between i and i + 1.

    >>> split_into_groups([20, 20, 3, 30])
    [(0, 3, 20), (3, 5, 30)]
    """
    todo = [(0, len(common) + 1)]
    groups: list[tuple[int, int, int]] = []
    while todo:
        first, last = todo.pop()
        within = common[first : last - 1]
        shared = min(within, default=0)
        # The most that splitting could save: every neighbouring pair shares all that it has in common.
        bound = sum(value for value in within if value >= MIN_SHARED_TOKENS)
        worth_it = shared >= MIN_SHARED_TOKENS and 2 * shared * len(within) >= bound
        if worth_it or len(within) == 0:
            groups.append((first, last, shared))
        else:
            cut = first + int(np.argmin(within)) + 1
            todo += [(cut, last), (first, cut)]
    return groups


def split_by_tokens(
    examples: Sequence[Example],
    micro_batch_tokens: int,
    virtual: VirtualTokens = NO_VIRTUAL_TOKENS,
    *,
    share_prefix: bool = True,
) -> list[list[Example]]:
    """Cut the examples of a step into micro-batches of at most `micro_batch_tokens` computed tokens each.

    An example longer than the budget is a micro-batch of its own. Sorted by token ids first, so that examples
    that begin alike meet in one micro-batch; micro-batches are of nearly equal size.
    """
    if not examples:
        return []
    ordered = sorted(examples, key=sort_key)
    sizes = row_sizes(ordered, virtual, share_prefix=share_prefix)
    even_share = sizes.even_share(micro_batch_tokens)
    batches: list[list[Example]] = []
    first, size = 0, sizes.tokens(0, 1)
    for last in range(1, len(ordered)):
        grown = sizes.tokens(first, last + 1)
        if grown > micro_batch_tokens or size >= even_share:
            batches.append(ordered[first:last])
            first, grown = last, sizes.tokens(last, last + 1)
        size = grown
    return [*batches, ordered[first:]]


@dataclass(frozen=True)
class RowSizes:
    """How many tokens a row of neighbouring sorted examples computes.

    `lengths[i]`: tokens of example i. `common[i]`: what it shares with example i + 1. `per_prefix`: virtual tokens laid
    for each prefix of a row.
    """

    lengths: Sequence[int]
    common: Sequence[int]
    per_prefix: int

    def tokens(self, first: int, last: int) -> int:
        """Tokens of a row of the examples [first, last)."""
        return computed_tokens(self.lengths[first:last], self.common[first : last - 1], self.per_prefix)

    def even_share(self, micro_batch_tokens: int) -> float:
        """Tokens of each micro-batch if the fewest that can hold all examples were of equal size."""
        total = computed_tokens(self.lengths, self.common)
        # Every micro-batch lays the virtual tokens again.
        room = max(1, micro_batch_tokens - self.per_prefix)
        batches = max(1, -(-total // room))
        return total / batches + self.per_prefix


def row_sizes(ordered: Sequence[Example], virtual: VirtualTokens, *, share_prefix: bool) -> RowSizes:
    lengths = [len(example.input_ids) for example in ordered]
    if share_prefix:
        return RowSizes(lengths, [shareable(a, b) for a, b in pairwise(ordered)], virtual.laid)
    # Nothing is shared, so every example has virtual tokens of its own.
    return RowSizes([length + virtual.laid for length in lengths], [0] * (len(ordered) - 1), 0)


def computed_tokens(lengths: Sequence[int], common: Sequence[int], virtual: int = 0) -> int:
    """Tokens of a row of sorted examples, shared beginnings counted once and `virtual` tokens for each prefix."""
    groups = split_into_groups(common)
    saved = sum(shared * (last - first - 1) for first, last, shared in groups)
    prefixes = sum(shared > 0 for _, _, shared in groups) + any(shared == 0 for _, _, shared in groups)
    return sum(lengths) - saved + virtual * prefixes


def padded(rows: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """[N, longest] int64: the rows, with `fill` on their right."""
    filled = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return filled
