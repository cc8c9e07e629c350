"""distributed/machine_load.py: what a machine laid out in files is busy with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neuralchat.distributed.machine_load import MachineLoad, read_load

TICKS = os.sysconf("SC_CLK_TCK")


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_every_count(tmp_path: Path) -> None:
    """CPU 0 and 2 are ours: busy 100 + 20 and 50 ticks, stolen 7 and 1; CPU 1 is not."""
    root = machine(
        tmp_path,
        {
            "proc/stat": "cpu  9 9 9 9 9 9 9 9 9 9\n"
            "cpu0 100 0 20 1000 500 0 0 7 0 0\ncpu1 999 0 0 0 0 0 0 999 0 0\ncpu2 50 0 0 0 0 0 0 1 0 0\nintr 1\n",
            "proc/vmstat": "pgpgin 3\npswpin 40\npswpout 2\n",
            "proc/self/stat": "12 (a) name) S 1 1 1 0 -1 4194560 900 0 33 0 5 6 0 0\n",
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/job/cpu.stat": "usage_usec 5\nnr_throttled 4\nthrottled_usec 2500000\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "6\n",
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "100\n",
            "sys/devices/system/cpu/cpu2/thermal_throttle/core_throttle_count": "1\n",
        },
    )
    found = read_load((0, 2), root)
    assert found.busy_seconds == pytest.approx(170 / TICKS)
    assert found.stolen_seconds == pytest.approx(8 / TICKS)
    assert (found.limited_seconds, found.swapped_pages, found.major_faults, found.throttled) == (2.5, 42, 33, 7)
    assert found.own_seconds > 0


def test_the_first_version_of_cgroups_counts_in_nanoseconds(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/job\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.stat": "nr_periods 1\nthrottled_time 1500000000\n",
    }
    assert read_load((0,), machine(tmp_path, files)).limited_seconds == 1.5


def test_what_is_not_told_is_nothing(tmp_path: Path) -> None:
    found = read_load((0,), tmp_path)
    assert (found.busy_seconds, found.swapped_pages, found.throttled, found.limited_seconds) == (0, 0, 0, 0)


def test_a_difference() -> None:
    assert MachineLoad(seconds=5, swapped_pages=9) - MachineLoad(seconds=3, swapped_pages=4) == MachineLoad(
        seconds=2, swapped_pages=5
    )
