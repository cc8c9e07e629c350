"""What the machine is busy with while this process computes: swapping, other programs, limits, heat.

Everything is read from files under a root, so that other machines can be laid out in tests. What a system does not tell
is zero, and then nothing is said of it.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, fields
from pathlib import Path

from neuralchat.distributed.hardware import cgroup_directories, read

# Of /proc/stat, in the order of its columns: user, nice, system, idle, iowait, irq, softirq, steal.
BUSY_COLUMNS, STEAL_COLUMN = (0, 1, 2, 5, 6), 7
THROTTLE_COUNTS = "thermal_throttle/core_throttle_count"


@dataclass(frozen=True)
class MachineLoad:
    """At one moment. Seconds and counts grow from the start of the machine or process; differences tell.

    `own_seconds`: CPU time of this process, all threads. `busy_seconds`, `stolen_seconds`: of the CPUs that it may run
    on, by whomever, and what a host took from this virtual machine. `limited_seconds`: for which the container's quota
    stopped it. `swapped_pages`: in and out, of the machine. `major_faults`: pages of this process that had to come from
    a disk. `throttled`: how often cores were slowed down for heat.
    """

    seconds: float = 0.0
    own_seconds: float = 0.0
    busy_seconds: float = 0.0
    stolen_seconds: float = 0.0
    limited_seconds: float = 0.0
    swapped_pages: int = 0
    major_faults: int = 0
    throttled: int = 0

    def __sub__(self, before: MachineLoad) -> MachineLoad:
        """What has happened since `before`."""
        return MachineLoad(**{f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)})


def read_load(cpus: tuple[int, ...], root: Path = Path("/")) -> MachineLoad:
    """`cpus`: those that this process may run on."""
    busy, stolen = cpu_seconds(cpus, root)
    times = os.times()
    return MachineLoad(
        seconds=time.monotonic(),
        own_seconds=times.user + times.system,
        busy_seconds=busy,
        stolen_seconds=stolen,
        limited_seconds=limited_seconds(root),
        swapped_pages=swapped_pages(root),
        major_faults=major_faults(root),
        throttled=sum(throttle_count(cpu, root) for cpu in cpus),
    )


def cpu_seconds(cpus: tuple[int, ...], root: Path) -> tuple[float, float]:
    ticks = os.sysconf("SC_CLK_TCK")
    busy = stolen = 0
    for line in read(root / "proc/stat").splitlines():
        name, *columns = line.split()
        if re.fullmatch(r"cpu\d+", name) and int(name[3:]) in cpus and len(columns) > STEAL_COLUMN:
            busy += sum(int(columns[column]) for column in BUSY_COLUMNS)
            stolen += int(columns[STEAL_COLUMN])
    return busy / ticks, stolen / ticks


def limited_seconds(root: Path) -> float:
    """Of the tightest group that tells: version 2 in microseconds, version 1 in nanoseconds."""
    found = 0.0
    for directory in cgroup_directories(root, "cpu"):
        text = read(directory / "cpu.stat")
        for pattern, units in ((r"^throttled_usec (\d+)", 1e6), (r"^throttled_time (\d+)", 1e9)):
            if match := re.search(pattern, text, re.MULTILINE):
                found = max(found, int(match[1]) / units)
    return found


def swapped_pages(root: Path) -> int:
    return sum(map(int, re.findall(r"^pswp(?:in|out) (\d+)", read(root / "proc/vmstat"), re.MULTILINE)))


def major_faults(root: Path) -> int:
    """The twelfth value of /proc/self/stat; a name in brackets, which may hold anything, comes second."""
    columns = read(root / "proc/self/stat").rpartition(")")[2].split()
    return int(columns[9]) if len(columns) > 9 and columns[9].isdigit() else 0


def throttle_count(cpu: int, root: Path) -> int:
    text = read(root / f"sys/devices/system/cpu/cpu{cpu}" / THROTTLE_COUNTS)
    return int(text) if text.isdigit() else 0
