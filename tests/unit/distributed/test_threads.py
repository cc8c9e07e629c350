"""thread_plan.py: processes of a machine get cores of their own, physical ones first, and torch obeys."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machine.trees import epyc, machine, write, xeon

from neuralchat.distributed import threads as thread_plan
from neuralchat.distributed.hardware import Machine, NumaNode, read_machine
from neuralchat.distributed.threads import (
    ThreadPlan,
    cpus_of_launcher,
    omp_is_the_launchers,
    plan_threads,
    thread_line,
)


def plans(found: Machine, ranks: int, **options: Any) -> list[ThreadPlan]:
    options = {"environ": {}, "launcher_omp": False, "launcher_cpus": len(found.cpus), **options}
    return [plan_threads(found, local_rank=rank, local_size=ranks, **options) for rank in range(ranks)]


def places(found: list[ThreadPlan]) -> list[tuple[int, tuple[int, ...], int | None]]:
    return [(plan.threads, plan.cpus, plan.numa_node) for plan in found]


def test_one_process_takes_every_physical_core(tmp_path: Path) -> None:
    [plan] = plans(machine(tmp_path, xeon), 1)
    assert places([plan]) == [(8, tuple(range(8)), None)]
    assert plan.interop_threads == 1
    assert "--num_processes auto starts a process for each" in plan.reason


def test_a_process_a_node(tmp_path: Path) -> None:
    found = plans(machine(tmp_path, xeon), 2)
    assert places(found) == [(4, (0, 1, 2, 3), 0), (4, (4, 5, 6, 7), 1)]
    assert "first touched" in found[0].reason


def test_siblings_side_by_side_are_left_out_too(tmp_path: Path) -> None:
    found = machine(tmp_path, epyc)
    assert places(plans(found, 4)) == [(2, (4 * n, 4 * n + 2), n) for n in range(4)]
    assert places(plans(found, 2)) == [(4, (0, 2, 4, 6), None), (4, (8, 10, 12, 14), None)]


def test_more_processes_than_nodes_stay_inside_one(tmp_path: Path) -> None:
    found = machine(tmp_path, xeon)
    assert places(plans(found, 4)) == [(2, (0, 1), 0), (2, (2, 3), 0), (2, (4, 5), 1), (2, (6, 7), 1)]
    assert places(plans(found, 3)) == [(2, (0, 1), 0), (2, (2, 3), 0), (4, (4, 5, 6, 7), 1)]


def test_a_node_that_is_nearly_closed_does_not_slow_a_process(tmp_path: Path) -> None:
    """A cpuset that leaves one core of the second node: five cores are split evenly."""
    assert [plan.cpus for plan in plans(machine(tmp_path, xeon, "0-4"), 2)] == [(0, 1), (2, 3, 4)]


def test_more_processes_than_cores(tmp_path: Path) -> None:
    found = plans(machine(tmp_path, xeon, "0-2,8-10"), 4)
    assert [plan.threads for plan in found] == [1] * 4
    assert [plan.cpus for plan in found] == [(0,), (1,), (2,), (0,)]
    assert all("warning: 4 processes share 3 core(s)" in plan.reason for plan in found)


def test_a_quota_bounds_threads_and_not_cores(tmp_path: Path) -> None:
    """Another container may have the same quota; which cores are free is for Linux to see."""
    xeon(tmp_path)
    write(tmp_path, "sys/fs/cgroup/cpu.max", "250000 100000")
    found = read_machine(tmp_path, range(8))
    [one] = plans(found, 1)
    assert (one.threads, len(one.cpus)) == (2, 8)
    assert "2.5 CPUs' worth of time" in one.reason
    assert [plan.threads for plan in plans(found, 2)] == [1, 1]
    assert all("warning: 4 processes share 2 core(s)" in plan.reason for plan in plans(found, 4))


def test_the_users_number_of_threads_holds(tmp_path: Path) -> None:
    found = machine(tmp_path, xeon)
    fewer, _ = plans(found, 2, environ={"OMP_NUM_THREADS": "3,1"})
    assert places([fewer]) == [(3, (0, 1, 2, 3), 0)]
    assert "OMP_NUM_THREADS=3" in fewer.reason
    # The specification's mpirun line gives each of 4 processes as many threads as a socket has CPUs.
    siblings, _ = plans(found, 2, environ={"OMP_NUM_THREADS": "8"})
    assert places([siblings]) == [(8, (0, 1, 2, 3, 8, 9, 10, 11), 0)]
    assert "warning" not in siblings.reason
    more, _ = plans(found, 2, environ={"OMP_NUM_THREADS": "9"})
    assert "warning: more threads than the 8 CPU(s)" in more.reason


def test_the_launchers_number_of_threads_does_not(tmp_path: Path) -> None:
    found = plans(machine(tmp_path, xeon), 2, environ={"OMP_NUM_THREADS": "1"}, launcher_omp=True)
    assert [plan.threads for plan in found] == [4, 4]


def test_a_number_of_threads_that_is_none(tmp_path: Path) -> None:
    [plan] = plans(machine(tmp_path, xeon), 1, environ={"OMP_NUM_THREADS": "all"})
    assert plan.threads == 8
    assert "warning: OMP_NUM_THREADS is 'all'" in plan.reason


def test_what_the_launcher_bound_is_not_divided_again(tmp_path: Path) -> None:
    found = machine(tmp_path, xeon, "4-7,12-15")
    plan = plan_threads(found, local_rank=1, local_size=2, environ={}, launcher_omp=False, launcher_cpus=16)
    assert places([plan]) == [(4, (4, 5, 6, 7), 1)]
    assert "the launcher has bound" in plan.reason
    # All ranks inside the same half: that is no binding of each.
    shared = plan_threads(found, local_rank=1, local_size=4, environ={}, launcher_omp=False, launcher_cpus=16)
    assert shared.cpus == (5,)
    limited = dataclasses.replace(found, cpu_quota=4.0)
    plan = plan_threads(limited, local_rank=1, local_size=2, environ={}, launcher_omp=False, launcher_cpus=16)
    assert plan.threads == 2


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    smt=st.integers(1, 2),
    ranks=st.integers(1, 12),
    quota=st.none() | st.floats(0.1, 30),
)
def test_never_oversubscribed(sizes: list[int], smt: int, ranks: int, quota: float | None) -> None:
    cores, nodes = [], []
    for size in sizes:
        first = len(cores)
        cores += [tuple(100 * t + c for t in range(smt)) for c in range(first, first + size)]
        nodes.append(NumaNode(len(nodes), tuple(cpu for core in cores[first:] for cpu in core), 0))
    cpus = tuple(sorted(cpu for core in cores for cpu in core))
    found = Machine("h", cpus, tuple(cores), 1, tuple(nodes), quota, None, 1, 1, "avx2")
    laid = plans(found, ranks)
    assert all(1 <= plan.threads <= len(plan.cpus) for plan in laid)
    assert all(cpu < 100 for plan in laid for cpu in plan.cpus), "hyper-threads are the last to be taken"
    if ranks <= len(cores):
        taken = [cpu for plan in laid for cpu in plan.cpus]
        assert len(taken) == len(set(taken)) == len(cores)
        assert all(list(plan.cpus) == list(range(plan.cpus[0], plan.cpus[-1] + 1)) for plan in laid)
    if quota is not None and ranks <= quota:
        assert sum(plan.threads for plan in laid) <= quota


def lay_process(proc: Path, pid: int, parent: int, environ: str) -> None:
    write(proc, f"{pid}/stat", f"{pid} (python) S {parent} 1")
    (proc / str(pid) / "environ").write_text(environ)


@pytest.mark.parametrize(("launcher", "expected"), [("HOME=/\0", True), ("OMP_NUM_THREADS=1\0", False)])
def test_whose_number_of_threads_it_is(tmp_path: Path, launcher: str, expected: bool) -> None:
    child = {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x"}
    lay_process(tmp_path, 9, 8, "OMP_NUM_THREADS=1\0TORCHELASTIC_RUN_ID=x\0")
    # A script of the user may stand between.
    lay_process(tmp_path, 8, 7, "OMP_NUM_THREADS=1\0TORCHELASTIC_RUN_ID=x\0")
    lay_process(tmp_path, 7, 1, launcher)
    assert omp_is_the_launchers(child, tmp_path, 9) is expected
    assert not omp_is_the_launchers({"OMP_NUM_THREADS": "1"}, tmp_path, 9)
    assert not omp_is_the_launchers({"TORCHELASTIC_RUN_ID": "x"}, tmp_path, 9)
    assert not omp_is_the_launchers(child, tmp_path / "none", 9)


def test_cpus_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpus_of_launcher({}) == 0
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    assert cpus_of_launcher(slurm) == 0
    assert cpus_of_launcher({**slurm, "SLURM_CPUS_ON_NODE": "32"}) == 32
    monkeypatch.setattr(thread_plan, "launcher_process", lambda _: os.getpid())
    assert cpus_of_launcher({"PMI_RANK": "0"}) == len(os.sched_getaffinity(0))
    monkeypatch.setattr(thread_plan, "launcher_process", lambda _: None)
    assert cpus_of_launcher({"PMI_RANK": "0"}) == 0
    monkeypatch.setattr(thread_plan, "launcher_process", lambda _: 2**22 + 1)
    assert cpus_of_launcher({"PMI_RANK": "0"}) == 0


def test_describe(tmp_path: Path) -> None:
    found = dataclasses.replace(machine(tmp_path, xeon), hostname="node0")
    first, _ = plans(found, 2)
    line = thread_line(first, rank=2, machine=found)
    assert line == "rank 2 on node0: 4 threads on cores 0-3 (NUMA node 0), amx_bf16"
    alone = dataclasses.replace(first, threads=1, cpus=(), numa_node=None)
    assert thread_line(alone, rank=0, machine=dataclasses.replace(found, isa="")) == "rank 0 on node0: 1 thread"
    assert thread_line(first, rank=None, machine=found) == "4 threads on cores 0-3 (NUMA node 0), amx_bf16"


APPLIED = """
import json, os, sys, threading
import numpy, torch
if sys.argv[1] == "late":
    torch.randn(600, 600) @ torch.randn(600, 600)
from neuralchat.distributed.threads import ThreadPlan, apply
cpus = sorted(os.sched_getaffinity(0))[:1]
bound = apply(ThreadPlan(1, 1, tuple(cpus), None, ""), bind=sys.argv[2] == "bind")
apply(ThreadPlan(1, 1, tuple(cpus), None, ""), bind=sys.argv[2] == "bind")
torch.set_num_threads(2)
torch.randn(600, 600) @ torch.randn(600, 600)
masks = {tuple(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")}
torch.set_num_threads(1)
print(json.dumps([bound, len(masks), len(next(iter(masks))), torch.get_num_interop_threads()]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="binding is Linux's")
@pytest.mark.parametrize("when", ["early", "late"])
def test_every_thread_of_the_process_is_bound(when: str) -> None:
    """Also those that OpenMP's pool had before."""
    environ = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}

    def run(bind: str) -> list[int]:
        command = [sys.executable, "-c", APPLIED, when, bind]
        found = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=100, check=False)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    assert run("bind") == [True, 1, 1, 1]
    assert run("no")[0] is False


def test_a_system_that_binds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert not thread_plan.bind_to((0,))
    monkeypatch.delattr(os, "sched_setaffinity")
    assert not thread_plan.bind_to((0,))
