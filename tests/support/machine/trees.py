"""Machines laid out as trees of /sys and /proc."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neuralchat.distributed.hardware import Machine, parse_cpu_list, read_machine

GIB = 2**20  # in kB
SPR_FLAGS = "flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile"


def write(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{text}\n")


def lay_out(root: Path, nodes: Sequence[str], siblings: Sequence[str], sockets: Sequence[str], cpuinfo: str) -> None:
    """`nodes` and `sockets`: their CPU lists; `siblings`: the groups of hyper-threads."""
    for group in siblings:
        for cpu in parse_cpu_list(group):
            package = next(i for i, cpus in enumerate(sockets) if cpu in parse_cpu_list(cpus))
            write(root, f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list", group)
            write(root, f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", str(package))
    for index, cpus in enumerate(nodes):
        write(root, f"sys/devices/system/node/node{index}/cpulist", cpus)
        write(root, f"sys/devices/system/node/node{index}/meminfo", f"Node {index} MemTotal:  {128 * GIB} kB")
    write(root, "proc/meminfo", f"MemTotal: {256 * GIB} kB\nMemFree: {100 * GIB} kB\nMemAvailable: {200 * GIB} kB")
    write(root, "proc/cpuinfo", f"processor : 0\n{cpuinfo}\n")
    write(root, "proc/self/cgroup", "0::/")


def xeon(root: Path) -> None:
    """2 sockets of 4 cores with 2 hyper-threads, numbered as Linux does: 0-7 cores, 8-15 their siblings."""
    lay_out(root, ["0-3,8-11", "4-7,12-15"], [f"{i},{i + 8}" for i in range(8)], ["0-3,8-11", "4-7,12-15"], SPR_FLAGS)


def epyc(root: Path) -> None:
    """1 socket, 4 NUMA nodes of 2 cores with 2 hyper-threads, siblings numbered side by side."""
    groups = [f"{2 * i}-{2 * i + 1}" for i in range(8)]
    lay_out(root, ["0-3", "4-7", "8-11", "12-15"], groups, ["0-15"], "flags : avx avx2")


def arm(root: Path) -> None:
    lay_out(root, ["0-3"], ["0", "1", "2", "3"], ["0-3"], "Features\t: fp asimd sve bf16 i8mm")


def machine(root: Path, lay: object, affinity: str = "0-15") -> Machine:
    lay(root)  # type: ignore[operator]
    return read_machine(root, parse_cpu_list(affinity))
