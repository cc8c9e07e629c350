"""Random numbers of an answer that leave torch's own generators as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class RandomState:
    """The state of torch's generators that belongs to one answer; without a seed it is everybody's.

    >>> before = torch.random.get_rng_state()
    >>> with RandomState(7).current():
    ...     draw = torch.rand(3)
    >>> torch.equal(before, torch.random.get_rng_state())
    True
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self.own: tuple[Any, list[Any]] | None = None

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within: torch draws from this state, which goes on from where it was left the last time."""
        if self.seed is None:
            yield
            return
        outer = torch_rng_state()
        if self.own is None:
            torch.manual_seed(self.seed)
        else:
            set_torch_rng_state(self.own)
        try:
            yield
        finally:
            self.own = torch_rng_state()
            set_torch_rng_state(outer)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Torch's generators are afterwards as they were; PEFT draws what it fills an adapter with before it loads it."""
    outer = torch_rng_state()
    try:
        yield
    finally:
        set_torch_rng_state(outer)


def torch_rng_state() -> tuple[Any, list[Any]]:
    """(state of the CPU's generator, states of the GPUs' generators where one is in use)."""
    return torch.random.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def set_torch_rng_state(state: tuple[Any, list[Any]]) -> None:
    torch.random.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
