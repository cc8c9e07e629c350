"""What a fine-tuning changes for its whole process, put back afterwards: a command ends with it, a program goes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from neuralchat.checkpointing.rng import rng_state, set_rng_state
from neuralchat.distributed.threads import threads_of_this_process

# What export_world, rendezvous and the plan of cores set.
ENVIRONMENT = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
    "GLOO_SOCKET_IFNAME",
)


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Random generators, number of threads, cores and environment are afterwards as they were.

    Two things stay: torch's number of parallel operators, which can be set once only, and that the allocator keeps
    freed pages.
    """
    generators, threads, cores = rng_state(), torch.get_num_threads(), cores_of_threads()
    environment = {name: os.environ.get(name) for name in ENVIRONMENT}
    try:
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        give_back_cores(cores)
        torch.set_num_threads(threads)
        set_rng_state(generators)


def cores_of_threads() -> dict[int, set[int]]:
    """Thread -> the cores it may run on; thread 0 stands for those that come later."""
    if not hasattr(os, "sched_getaffinity"):
        return {}
    found = {0: os.sched_getaffinity(0)}
    for thread in threads_of_this_process():
        with contextlib.suppress(ProcessLookupError):
            found[thread] = os.sched_getaffinity(thread)
    return found


def give_back_cores(cores: dict[int, set[int]]) -> None:
    if not cores:
        return
    for thread in threads_of_this_process():
        # A thread may have ended meanwhile.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, cores.get(thread, cores[0]))
