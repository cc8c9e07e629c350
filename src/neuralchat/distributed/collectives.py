"""What the processes of a run tell each other, in one place; with one process all of it is trivial."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from neuralchat.errors import NeuralChatError

T = TypeVar("T")


class ToldElsewhereError(NeuralChatError):
    """Another process has failed and tells the user why; this one ends with the same exit status, silently."""

    told = True

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def local_rank() -> int:
    """The place of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_distributed() else 0


def local_size() -> int:
    """How many processes of this run share the machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_distributed() else 1


def all_gather_object(value: Any) -> list[Any]:
    """The value of every rank, on every rank, in the order of ranks."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_sum(values: Sequence[float], device: torch.device | str = "cpu") -> list[float]:
    """The sums of these numbers over all ranks, in fp64."""
    if not is_distributed():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def as_on_rank_zero(tensors: Sequence[torch.Tensor]) -> None:
    """Give each tensor the values that it has on rank 0."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor.data, src=0)


def sum_gradients(parameters: Sequence[torch.nn.Parameter], extra: Sequence[float]) -> list[float]:
    """Give each parameter the sum of its gradient over all ranks; returns the sums of the `extra` numbers.

    One all-reduce of everything, laid end to end. A rank without a gradient counts as zeros.
    """
    if not is_distributed():
        return list(extra)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    numbers = torch.tensor(extra, device=gradients[0].device)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), numbers])
    dist.all_reduce(flat)
    *parts, numbers = flat.split([*(p.numel() for p in parameters), len(numbers)])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)
    return numbers.tolist()


def run_on_rank_zero(work: Callable[[], T]) -> T:
    """Do `work` on rank 0 alone; every rank returns its result, or ends with its error."""
    if not is_distributed():
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


def run_first_on_each_host(work: Callable[[], T]) -> T:
    """Do `work` first on one rank of each machine, then on the others, which find its files; any failure ends all."""
    if not is_distributed():
        return work()
    result: Any = None
    for turn in (True, False):
        error: NeuralChatError | None = None
        if (local_rank() == 0) == turn:
            try:
                result = work()
            except NeuralChatError as caught:
                error = caught
        raise_together(error)
    return result


def raise_together(error: NeuralChatError | None) -> None:
    """Every rank calls this with its error or None; if there is one, all end, and the first that has one tells it."""
    outcomes = all_gather_object((str(error), error.exit_status) if error else None)
    failed = next((rank for rank, outcome in enumerate(outcomes) if outcome), None)
    if failed is None:
        return
    if error is not None and failed == rank():
        raise error
    raise ToldElsewhereError(*outcomes[failed])
