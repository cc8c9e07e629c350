"""How many threads a process takes, and on which cores, so that the processes of a machine do not disturb each other.

A process gets whole physical cores of one NUMA node where it can. Memory needs no binding then: Linux takes each page
from the node of the thread that first touches it, and all threads of the process are on that node.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neuralchat.distributed.hardware import Machine, cpu_list
from neuralchat.distributed.launchers import (
    TORCHELASTIC,
    initial_environment,
    launcher_of,
    launcher_process,
    whole_number,
)

# Training has one stream of operators; a second pool of threads would only sleep.
INTEROP_THREADS = 1
LOCAL_MEMORY = "memory comes from that node, since Linux takes a page where it is first touched"


@dataclass(frozen=True)
class ThreadPlan:
    """`cpus`: where the threads may run; empty where binding is not possible. `numa_node`: None for several nodes."""

    threads: int
    interop_threads: int
    cpus: tuple[int, ...]
    numa_node: int | None
    reason: str


def plan_threads(
    machine: Machine,
    *,
    local_rank: int,
    local_size: int,
    environ: Mapping[str, str],
    launcher_omp: bool | None = None,
    launcher_cpus: int | None = None,
) -> ThreadPlan:
    """The plan for one process of `local_size` on this machine.

    `launcher_omp`: OMP_NUM_THREADS is the launcher's, not the user's. `launcher_cpus`: on how many CPUs the launcher
    itself may run, which tells whether it has bound its ranks. Both are found out where they are None.
    """
    if launcher_omp is None:
        launcher_omp = omp_is_the_launchers(environ)
    if launcher_cpus is None:
        launcher_cpus = cpus_of_launcher(environ)
    reasons = []
    bound = local_size > 1 and is_bound(machine, local_size, launcher_cpus)
    ranks = 1 if bound else local_size
    if bound:
        reasons.append("the launcher has bound this process to these cores")
    share = shares(machine, ranks)[0 if bound else local_rank]
    granted = len(share) if machine.cpu_quota is None else int(machine.cpu_quota) // local_size
    threads = max(1, min(len(share), granted))
    if ranks > machine.threads:
        reasons.append(f"warning: {ranks} processes share {machine.threads} core(s) and slow each other down")
    elif machine.threads < len(machine.cores):
        reasons.append(f"the container may use {machine.cpu_quota:g} CPUs' worth of time")
    cpus = tuple(core[0] for core in share)
    asked = None if launcher_omp else asked_threads(environ, reasons)
    if asked is not None:
        threads = asked
        reasons.append(f"OMP_NUM_THREADS={asked}")
        if threads > len(cpus):
            cpus = tuple(sorted(cpu for core in share for cpu in core))
        if threads > len(cpus):
            reasons.append(f"warning: more threads than the {len(cpus)} CPU(s) of this process")
    nodes = {machine.node_of(cpu) for cpu in cpus}
    node = nodes.pop() if len(nodes) == 1 else None
    if len(machine.nodes) > 1:
        reasons.append(
            LOCAL_MEMORY
            if node is not None
            else "cores of several NUMA nodes; --num_processes auto starts a process for each"
        )
    return ThreadPlan(threads, INTEROP_THREADS, cpus, node, "; ".join(reasons) or "one thread per physical core")


def shares(machine: Machine, ranks: int) -> list[tuple[tuple[int, ...], ...]]:
    """The cores of each rank: contiguous, and of one NUMA node unless that would be very uneven."""
    cores = machine.cores
    if ranks >= len(cores):
        return [(cores[rank % len(cores)],) for rank in range(ranks)]
    even = split(cores, ranks)
    by_node: list[tuple[tuple[int, ...], ...]] = []
    nodes = [tuple(core for core in cores if core[0] in node.cpus) for node in machine.nodes]
    for position, node in enumerate(nodes):
        here = sum(rank * len(nodes) // ranks == position for rank in range(ranks))
        by_node += split(node, here) if here else []
    # The slowest rank sets the pace.
    fair = ranks >= len(nodes) and min(map(len, by_node)) >= 0.75 * (len(cores) // ranks)
    return by_node if fair else even


def split(cores: tuple[tuple[int, ...], ...], parts: int) -> list[tuple[tuple[int, ...], ...]]:
    ends = [len(cores) * part // parts for part in range(parts + 1)]
    return [cores[start:end] for start, end in itertools.pairwise(ends)]


def asked_threads(environ: Mapping[str, str], reasons: list[str]) -> int | None:
    """OMP_NUM_THREADS as a number. Its list form gives the outermost level first."""
    text = environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    if text:
        reasons.append(f"warning: OMP_NUM_THREADS is '{text}' and no number from 1, so it is left aside")
    return None


# What the launcher did


def omp_is_the_launchers(environ: Mapping[str, str], proc: Path = Path("/proc"), pid: int | None = None) -> bool:
    """torchrun gives its processes OMP_NUM_THREADS=1 if the user set nothing. Its own environment tells which."""
    if "OMP_NUM_THREADS" not in environ or TORCHELASTIC not in environ:
        return False
    launcher = launcher_process(TORCHELASTIC, proc, pid)
    return launcher is not None and "OMP_NUM_THREADS" not in initial_environment(proc, launcher)


def cpus_of_launcher(environ: Mapping[str, str]) -> int:
    """The number of CPUs that the ranks of this machine have together; 0 if it cannot be told."""
    launcher = launcher_of(environ)
    if launcher is None:
        return 0
    if launcher.name == "slurm":
        # SLURM's daemon is not confined to the job.
        return whole_number(environ, "SLURM_CPUS_ON_NODE") or 0
    process = launcher_process(TORCHELASTIC if TORCHELASTIC in environ else launcher.rank)
    if process is None or not hasattr(os, "sched_getaffinity"):
        return 0
    with contextlib.suppress(OSError):
        return len(os.sched_getaffinity(process))
    return 0


def is_bound(machine: Machine, local_size: int, launcher_cpus: int) -> bool:
    """Whether the launcher (mpirun -bind-to, srun --cpu-bind) gave each rank CPUs of its own."""
    return len(machine.cpus) < launcher_cpus and len(machine.cpus) * local_size <= launcher_cpus


# Carrying it out


def apply(plan: ThreadPlan, *, bind: bool = True) -> bool:
    """Bind this process and set torch's threads, best before torch has computed anything. Whether it is bound."""
    import torch

    bound = bind and bool(plan.cpus) and bind_to(plan.cpus)
    torch.set_num_threads(plan.threads)
    if torch.get_num_interop_threads() != plan.interop_threads:
        # It can be set only once in a process, and no more after its first use; then it stays.
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(plan.interop_threads)
    return bound


def bind_to(cpus: tuple[int, ...]) -> bool:
    """Whether all threads of this process now keep to these CPUs; not every system or container allows it."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    try:
        os.sched_setaffinity(0, cpus)
        # Threads that exist already (a pool of OpenMP or OpenBLAS) do not follow the main one by themselves.
        for thread in threads_of_this_process():
            # A thread may have ended meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cpus)
    except OSError:
        return False
    return True


def threads_of_this_process() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return [0]


def thread_line(plan: ThreadPlan, *, rank: int, machine: Machine) -> str:
    """One line, such as: rank 0 on node0: 28 threads on cores 0-27 (NUMA node 0), avx512_bf16"""
    where = f" on core{'s' if len(plan.cpus) > 1 else ''} {cpu_list(plan.cpus)}" if plan.cpus else ""
    node = f" (NUMA node {plan.numa_node})" if plan.numa_node is not None and len(machine.nodes) > 1 else ""
    threads = f"{plan.threads} thread{'s' if plan.threads > 1 else ''}"
    isa = f", {machine.isa}" if machine.isa else ""
    return f"rank {rank} on {machine.hostname}: {threads}{where}{node}{isa}"
