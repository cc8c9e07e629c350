"""What this process may use of its machine: cores, NUMA nodes, memory, the limits of its container, instructions.

Everything is read from files under a root, so that other machines can be laid out in tests. Where there is no /sys
(macOS), each CPU counts as a core.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

# From the best; the flag as Linux names it -> our name.
X86_LEVELS = {"amx_bf16": "amx_bf16", "avx512_bf16": "avx512_bf16", "avx512f": "avx512", "avx2": "avx2"}
ARM_LEVELS = {"bf16": "bf16", "sve": "sve", "asimd": "neon", "neon": "neon"}


@dataclass(frozen=True)
class NumaNode:
    """A part of the machine with memory of its own. `cpus`: those that may be used; `memory` in bytes."""

    index: int
    cpus: tuple[int, ...]
    memory: int


@dataclass(frozen=True)
class Machine:
    """`cores`: the usable CPUs in groups of sibling hyper-threads, in the order of nodes and numbers."""

    hostname: str
    cpus: tuple[int, ...]
    cores: tuple[tuple[int, ...], ...]
    sockets: int
    nodes: tuple[NumaNode, ...]
    cpu_quota: float | None
    memory_quota: int | None
    total_memory: int
    available_memory: int
    isa: str

    @property
    def threads(self) -> int:
        """How many threads can really run at once: one a core, no more than the quota grants."""
        return len(self.cores) if self.cpu_quota is None else max(1, min(len(self.cores), int(self.cpu_quota)))

    def memory_limit(self) -> int:
        """Bytes this process can have at most."""
        return self.total_memory if self.memory_quota is None else min(self.memory_quota, self.total_memory)

    def node_of(self, cpu: int) -> int | None:
        return next((node.index for node in self.nodes if cpu in node.cpus), None)


def read_machine(root: Path = Path("/"), affinity: Iterable[int] | None = None) -> Machine:
    """`affinity`: the CPUs this process may run on; the operating system is asked where it is not given."""
    cpus = tuple(sorted(own_affinity() if affinity is None else affinity))
    nodes = read_nodes(root, cpus)
    total, available = read_memory(root)
    quota, free = memory_quota(root)
    quota = None if quota is None or (total and quota >= total) else quota
    return Machine(
        hostname=platform.node(),
        cpus=cpus,
        cores=read_cores(root, cpus, nodes),
        sockets=len({read(root / cpu_directory(cpu) / "topology/physical_package_id") or "0" for cpu in cpus}),
        nodes=nodes,
        cpu_quota=cpu_quota(root),
        memory_quota=quota,
        total_memory=total,
        available_memory=available if quota is None or free is None else min(available, free),
        isa=read_isa(root),
    )


def own_affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    # macOS has no affinity; its hyper-threads, if any, cannot be told from cores by number.
    return set(range(psutil.cpu_count(logical=False) or os.cpu_count() or 1))


# Cores and nodes


def cpu_directory(cpu: int) -> str:
    return f"sys/devices/system/cpu/cpu{cpu}"


def read_cores(root: Path, cpus: tuple[int, ...], nodes: tuple[NumaNode, ...]) -> tuple[tuple[int, ...], ...]:
    """Groups of hyper-threads; those of one node stand together."""
    groups: set[tuple[int, ...]] = set()
    for cpu in cpus:
        topology = root / cpu_directory(cpu) / "topology"
        siblings = read(topology / "core_cpus_list") or read(topology / "thread_siblings_list")
        groups.add(tuple(sorted(set(parse_cpu_list(siblings or str(cpu))) & set(cpus))) or (cpu,))
    place = {cpu: position for position, node in enumerate(nodes) for cpu in node.cpus}
    return tuple(sorted(groups, key=lambda group: (place.get(group[0], len(nodes)), group)))


def read_nodes(root: Path, cpus: tuple[int, ...]) -> tuple[NumaNode, ...]:
    """The nodes that have usable CPUs; one of all CPUs where Linux tells none."""
    nodes = []
    for directory in (root / "sys/devices/system/node").glob("node[0-9]*"):
        usable = tuple(cpu for cpu in parse_cpu_list(read(directory / "cpulist")) if cpu in cpus)
        found = re.search(r"MemTotal:\s*(\d+) kB", read(directory / "meminfo"))
        if usable:
            index = int(directory.name.removeprefix("node"))
            nodes.append(NumaNode(index, usable, int(found[1]) * 1024 if found else 0))
    return tuple(sorted(nodes, key=lambda node: node.index)) or (NumaNode(0, cpus, read_memory(root)[0]),)


def parse_cpu_list(text: str) -> list[int]:
    """0-3,8 -> 0, 1, 2, 3, 8"""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first:
            numbers += range(int(first), int(last or first) + 1)
    return numbers


def cpu_list(cpus: Iterable[int]) -> str:
    """0, 1, 2, 3, 8 -> 0-3,8"""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


# Limits of a container


def cgroup_directories(root: Path, controller: str) -> Iterator[Path]:
    """Where limits for this process may stand: its group and all above it, of either version of cgroups.

    A container often sees its own group as the topmost one, whatever its path says.
    """
    mounted = root / "sys/fs/cgroup"
    for line in read(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if not names:
            bases = [mounted, mounted / "unified"]
        elif controller in names.split(","):
            bases = [mounted / names, mounted / controller]
        else:
            continue
        group = Path(path.lstrip("/"))
        for base in bases:
            yield from dict.fromkeys([base / group, *(base / above for above in group.parents), base])


def cpu_quota(root: Path) -> float | None:
    """CPUs' worth of time, such as 2.5; the smallest of all groups."""
    quotas = []
    for directory in cgroup_directories(root, "cpu"):
        words = read(directory / "cpu.max").split() or [
            read(directory / "cpu.cfs_quota_us"),
            read(directory / "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_quota(root: Path) -> tuple[int | None, int | None]:
    """(bytes the tightest group allows, bytes of them that are free). Cached file pages count as free."""
    tightest: tuple[int | None, int | None] = (None, None)
    for directory in cgroup_directories(root, "memory"):
        limit = read(directory / "memory.max") or read(directory / "memory.limit_in_bytes")
        if not limit.isdigit() or (tightest[0] is not None and int(limit) >= tightest[0]):
            continue
        used = read(directory / "memory.current") or read(directory / "memory.usage_in_bytes") or "0"
        cached = re.search(r"^(?:total_)?inactive_file (\d+)", read(directory / "memory.stat"), re.MULTILINE)
        tightest = int(limit), max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))
    return tightest


# Memory and instructions


def read_memory(root: Path) -> tuple[int, int]:
    """(total, available) in bytes"""
    lines: list[tuple[str, str]] = re.findall(r"^(\w+):\s*(\d+) kB", read(root / "proc/meminfo"), re.MULTILINE)
    found = {name: int(kilobytes) * 1024 for name, kilobytes in lines}
    if "MemTotal" in found:
        return found["MemTotal"], found.get("MemAvailable", found.get("MemFree", 0))
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def read_isa(root: Path) -> str:
    """The widest instructions that matter here; empty if there are none of them, or they cannot be told."""
    found = re.search(r"^(flags|Features)\s*:(.*)$", read(root / "proc/cpuinfo"), re.MULTILINE)
    if found is None:
        return "neon" if platform.machine() in ("arm64", "aarch64") else ""
    flags = found[2].split()
    levels = X86_LEVELS if found[1] == "flags" else ARM_LEVELS
    return next((name for flag, name in levels.items() if flag in flags), "")


def read(path: Path) -> str:
    """The stripped text of a small file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
