"""Where the time of training goes, by part."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

Share = TypeVar("Share")

PASSES, BETWEEN_RANKS, OPTIMIZER, READING = "passes", "between_ranks", "optimizer", "reading"
EVALUATING, SAVING = "evaluating", "saving"
# What an optimizer step is made of; the others come between steps.
STEP_PARTS = (PASSES, BETWEEN_RANKS, OPTIMIZER, READING)


@dataclass
class PartClock:
    """`seconds` of this process by part, since training began. `rank_seconds`: those of `passes`, of every rank."""

    seconds: dict[str, float] = field(default_factory=dict)
    rank_seconds: list[float] = field(default_factory=list)
    # Of `passes`, when the ranks were last told of them.
    told: float = field(default=0.0, init=False)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def step_seconds(self) -> float:
        """Of all optimizer steps, without what comes between them."""
        return sum(self.seconds.get(name, 0.0) for name in STEP_PARTS)

    def reading(self, shares: Iterator[Share]) -> Iterator[Share]:
        """The same shares; the time until each is there counts as reading."""
        while True:
            with self.part(READING):
                share = next(shares, None)
            if share is None:
                return
            yield share

    def own_step(self, rank: int, ranks: int) -> list[float]:
        """Seconds of the passes since the last call, in this rank's place among all ranks; the others' are zero."""
        passes = self.seconds.get(PASSES, 0.0)
        places = [0.0] * ranks
        places[rank], self.told = passes - self.told, passes
        return places

    def see_ranks(self, seconds: Sequence[float]) -> None:
        """`seconds`: of the passes of the last step, of every rank."""
        before = self.rank_seconds or [0.0] * len(seconds)
        self.rank_seconds = [total + step for total, step in zip(before, seconds, strict=True)]
