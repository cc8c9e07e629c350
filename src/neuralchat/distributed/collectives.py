"""What the processes of a run tell each other, in one place; with one process all of it is trivial."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from neuralchat.errors import NeuralChatError

T = TypeVar("T")


class ToldElsewhereError(NeuralChatError):
    """Another process has failed and tells the user why; this one ends with the same exit status, silently."""

    told = True

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if several() else 0


def local_rank() -> int:
    """The place of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if several() else 0


def local_size() -> int:
    """How many processes of this run share the machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if several() else 1


def gathered(value: Any) -> list[Any]:
    """The value of every rank, on every rank, in the order of ranks."""
    if not several():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def agreed(work: Callable[[], T]) -> T:
    """Do `work` on rank 0 alone; every rank returns its result, or ends with its error."""
    if not several():
        return work()
    outcome: list[Any] = [None, None]
    error: NeuralChatError | None = None
    if dist.get_rank() == 0:
        try:
            outcome[0] = work()
        except NeuralChatError as caught:
            error = caught
            outcome[1] = (str(caught), caught.exit_status)
    dist.broadcast_object_list(outcome, src=0)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise ToldElsewhereError(*outcome[1])
    return outcome[0]


E = TypeVar("E", bound=NeuralChatError)


def told_by_first(error: E) -> E:
    """An error that all ranks meet alike: the first of them tells it."""
    error.told = rank() != 0
    return error


def first_on_each_machine(work: Callable[[], T]) -> T:
    """Do `work` first on one rank of each machine, then on the others, which find its files; any failure ends all."""
    if not several():
        return work()
    result: Any = None
    for turn in (True, False):
        error: NeuralChatError | None = None
        if (local_rank() == 0) == turn:
            try:
                result = work()
            except NeuralChatError as caught:
                error = caught
        end_together(error)
    return result


def end_together(error: NeuralChatError | None) -> None:
    """Every rank calls this with its error or None; if there is one, all end, and the first that has one tells it."""
    outcomes = gathered((str(error), error.exit_status) if error else None)
    failed = next((rank for rank, outcome in enumerate(outcomes) if outcome), None)
    if failed is None:
        return
    if error is not None and failed == rank():
        raise error
    raise ToldElsewhereError(*outcomes[failed])
