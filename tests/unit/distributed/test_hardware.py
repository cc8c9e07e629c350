"""hardware.py: what a process may use, read from the files of machines that are laid out here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest
from support.machine.trees import arm, epyc, lay_out, machine, write, xeon

from neuralchat.distributed import hardware
from neuralchat.distributed.hardware import cpu_list, parse_cpu_list, read_machine


def test_two_sockets_with_hyper_threads(tmp_path: Path) -> None:
    found = machine(tmp_path, xeon)
    assert found.cores == tuple((i, i + 8) for i in range(8))
    assert (found.sockets, found.threads, found.isa) == (2, 8, "amx_bf16")
    assert [(node.index, node.cpus) for node in found.nodes] == [
        (0, (0, 1, 2, 3, 8, 9, 10, 11)),
        (1, (4, 5, 6, 7, 12, 13, 14, 15)),
    ]
    assert found.nodes[0].memory == 128 * 2**30
    assert (found.total_memory, found.available_memory) == (256 * 2**30, 200 * 2**30)
    assert (found.cpu_quota, found.memory_quota, found.memory_limit()) == (None, None, 256 * 2**30)
    assert (found.node_of(12), found.node_of(99)) == (1, None)


def test_four_numa_nodes_in_one_socket(tmp_path: Path) -> None:
    found = machine(tmp_path, epyc)
    assert (found.sockets, len(found.nodes), len(found.cores), found.isa) == (1, 4, 8, "avx2")
    assert found.cores[2] == (4, 5)


def test_cores_of_a_node_stand_together_whatever_their_numbers(tmp_path: Path) -> None:
    """Some machines deal CPU numbers out to the sockets in turn."""
    lay_out(tmp_path, ["0,2", "1,3"], ["0", "1", "2", "3"], ["0,2", "1,3"], "flags : avx512f avx2")
    found = read_machine(tmp_path, range(4))
    assert found.cores == ((0,), (2,), (1,), (3,))
    assert found.isa == "avx512"


def test_affinity_leaves_nodes_and_siblings_out(tmp_path: Path) -> None:
    found = machine(tmp_path, xeon, "4-6,12")
    assert found.cores == ((4, 12), (5,), (6,))
    assert [(node.index, node.cpus) for node in found.nodes] == [(1, (4, 5, 6, 12))]
    assert found.sockets == 1


def test_container_of_cgroup_two(tmp_path: Path) -> None:
    xeon(tmp_path)
    write(tmp_path, "sys/fs/cgroup/cpu.max", "250000 100000")
    write(tmp_path, "sys/fs/cgroup/memory.max", str(8 * 2**30))
    write(tmp_path, "sys/fs/cgroup/memory.current", str(5 * 2**30))
    write(tmp_path, "sys/fs/cgroup/memory.stat", f"anon 1\ninactive_file {2 * 2**30}\nactive_file 7")
    found = read_machine(tmp_path, range(4))
    assert (found.cpu_quota, found.threads, len(found.cores)) == (2.5, 2, 4)
    assert (found.memory_quota, found.memory_limit(), found.available_memory) == (8 * 2**30, 8 * 2**30, 5 * 2**30)


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    xeon(tmp_path)
    write(tmp_path, "proc/self/cgroup", "0::/job.slice/step")
    write(tmp_path, "sys/fs/cgroup/job.slice/step/cpu.max", "max 100000")
    write(tmp_path, "sys/fs/cgroup/job.slice/cpu.max", "50000 100000")
    write(tmp_path, "sys/fs/cgroup/job.slice/step/memory.max", "max")
    write(tmp_path, "sys/fs/cgroup/job.slice/memory.max", str(3 * 2**30))
    found = read_machine(tmp_path, range(16))
    assert (found.cpu_quota, found.threads) == (0.5, 1)
    assert found.memory_limit() == 3 * 2**30


def test_container_of_cgroup_one(tmp_path: Path) -> None:
    """Docker shows the host's path, and mounts the own group as the topmost one."""
    xeon(tmp_path)
    write(tmp_path, "proc/self/cgroup", "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "350000")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", str(4 * 2**30))
    write(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", str(2**30))
    found = read_machine(tmp_path, range(16))
    assert (found.cpu_quota, found.memory_quota, found.available_memory) == (3.5, 4 * 2**30, 3 * 2**30)


def test_no_limit_of_cgroup_one(tmp_path: Path) -> None:
    xeon(tmp_path)
    write(tmp_path, "proc/self/cgroup", "4:memory:/\n2:cpu:/")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    found = read_machine(tmp_path, range(16))
    assert (found.cpu_quota, found.memory_quota) == (None, None)


def test_arm(tmp_path: Path) -> None:
    found = machine(tmp_path, arm, "0-3")
    assert (found.isa, len(found.cores), found.sockets) == ("bf16", 4, 1)
    write(tmp_path, "proc/cpuinfo", "Features : fp asimd")
    assert read_machine(tmp_path, range(4)).isa == "neon"


def test_without_sys_and_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.platform, "machine", lambda: "arm64")
    found = read_machine(tmp_path, range(3))
    assert (found.cores, found.sockets, found.isa) == (((0,), (1,), (2,)), 1, "neon")
    assert [(node.index, node.cpus) for node in found.nodes] == [(0, (0, 1, 2))]
    assert found.memory_limit() == found.total_memory == psutil.virtual_memory().total
    monkeypatch.setattr(hardware.platform, "machine", lambda: "i386")
    assert read_machine(tmp_path, range(3)).isa == ""


def test_without_affinity_physical_cores_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 6)
    assert hardware.own_affinity() == set(range(6))


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's files")
def test_this_machine() -> None:
    found = read_machine()
    assert set(found.cpus) == os.sched_getaffinity(0)
    assert sorted(cpu for core in found.cores for cpu in core) == list(found.cpus)
    assert 0 < found.available_memory <= found.total_memory
    assert found.memory_limit() <= found.total_memory


@pytest.mark.parametrize(("text", "cpus"), [("", []), ("0", [0]), ("0-3,8", [0, 1, 2, 3, 8]), ("1,3-4", [1, 3, 4])])
def test_cpu_lists(text: str, cpus: list[int]) -> None:
    assert parse_cpu_list(text) == cpus
    assert cpu_list(cpus) == text
