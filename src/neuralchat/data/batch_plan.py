"""Which examples make which optimizer step: a pure function of the data, the seed, the epoch and the batch.

A unit is what a batch counts: one example, or with --dataset_concatenation one row of several. Every rank and
every restart computes the same plan, so neither the number of ranks nor a stop changes what a step sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# group_by_length sorts within so many steps' worth of shuffled units, so that batches stay random enough.
GROUPED_STEPS = 50


@dataclass(frozen=True)
class BatchPlan:
    """`lengths`: tokens of each example. `row_tokens`: size of a row, or None if each example is a unit.

    `order` is "random", "sequential" or "group_by_length". `units_per_step` is the global batch: all ranks and
    accumulation steps together.
    """

    fingerprint: str
    lengths: tuple[int, ...]
    seed: int
    units_per_step: int
    row_tokens: int | None = None
    drop_last: bool = False
    order: str = "random"

    @cached_property
    def units(self) -> list[list[int]]:
        """Example indices of each unit; the same in every epoch."""
        if self.row_tokens is None:
            return [[index] for index in range(len(self.lengths))]
        shuffled = rng_for(self.fingerprint, self.seed, "rows").permutation(len(self.lengths))
        return best_fit_rows([(int(i), self.lengths[int(i)]) for i in shuffled], self.row_tokens)

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        whole, rest = divmod(len(self.units), self.units_per_step)
        return whole if self.drop_last else whole + (rest > 0)

    def step(self, epoch: int, step: int) -> list[list[int]]:
        """The units of optimizer step `step` (from 0) of `epoch` (from 0)."""
        order = self.epoch_order(epoch)
        return [self.units[i] for i in order[step * self.units_per_step : (step + 1) * self.units_per_step]]

    def epoch_order(self, epoch: int) -> np.ndarray:
        if self.order == "sequential":
            return np.arange(len(self.units))
        order = rng_for(self.fingerprint, self.seed, f"epoch {epoch}").permutation(len(self.units))
        if self.order == "group_by_length":
            sizes = np.array([sum(self.lengths[i] for i in unit) for unit in self.units])
            chunk = self.units_per_step * GROUPED_STEPS
            chunks = [order[start : start + chunk] for start in range(0, len(order), chunk)]
            order = np.concatenate([part[np.argsort(-sizes[part], kind="stable")] for part in chunks])
        return order


def rng_for(fingerprint: str, seed: int, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{fingerprint}|{seed}|{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def best_fit_rows(items: Sequence[tuple[int, int]], row_tokens: int) -> list[list[int]]:
    """Whole items into rows of at most `row_tokens`: each goes where it leaves least room.

    Nothing is dropped; an item longer than a row is a row of its own. Rows open by their free tokens, so a
    placement costs O(row_tokens) at most.
    """
    rows: list[list[int]] = []
    # open_rows[free] lists rows with exactly `free` tokens left; free_sizes marks which lists are not empty.
    open_rows: dict[int, list[int]] = {}
    sizes = np.zeros(row_tokens + 1, dtype=bool)
    for index, length in items:
        fits = int(np.argmax(sizes[length:])) + length if length <= row_tokens and sizes[length:].any() else None
        if fits is None:
            rows.append([index])
            row, free = len(rows) - 1, row_tokens - length
        else:
            row = open_rows[fits].pop()
            sizes[fits] = bool(open_rows[fits])
            rows[row].append(index)
            free = fits - length
        if free > 0:
            open_rows.setdefault(free, []).append(row)
            sizes[free] = True
    return rows


def share_of_rank(units: Sequence[Sequence[int]], lengths: Sequence[int], rank: int, world: int) -> list[list[int]]:
    """The units of a step that `rank` computes: balanced by tokens, each unit on exactly one rank.

    Longest first to the rank with least; a rank may get nothing in a ragged last step.
    """
    if world == 1:
        return [list(unit) for unit in units]
    loads = [0] * world
    shares: list[list[list[int]]] = [[] for _ in range(world)]
    costs = [sum(lengths[i] for i in unit) for unit in units]
    for position in sorted(range(len(units)), key=lambda p: (-costs[p], p)):
        least = min(range(world), key=lambda r: (loads[r], r))
        loads[least] += costs[position]
        shares[least].append(list(units[position]))
    return shares[rank]
