"""watching/speed_watch.py: a drop of speed is told with what the machine says, by readings that are put in."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from neuralchat.distributed.machine_load import MachineLoad
from neuralchat.watching.counters import Counters
from neuralchat.watching.part_clock import PASSES, PartClock
from neuralchat.watching.speed_watch import WINDOW_SECONDS, SpeedWatch, SpeedWindow, causes

# Twenty seconds of one process on its two CPUs, alone.
QUIET = MachineLoad(seconds=20, own_seconds=40, busy_seconds=40)
USUAL = SpeedWindow(6000, 20.0, QUIET)
HOSTS = ("node0", "node1", "node2")
DISTURBED = {
    "swapping": (replace(QUIET, swapped_pages=200_000), "the machine is swapping (39 MiB/s)"),
    "disk": (replace(QUIET, major_faults=100_000), "weights come from the disk again (20 MiB/s)"),
    "quota": (replace(QUIET, limited_seconds=8), "the container's CPU quota stops it for 40% of the time"),
    "host": (replace(QUIET, stolen_seconds=20), "the host takes 50% of this virtual machine's CPU time"),
    "others": (replace(QUIET, own_seconds=20), "other programs take 50% of the CPU time here"),
    "heat": (replace(QUIET, throttled=3), "cores were slowed down for heat 3 times"),
}


@pytest.mark.parametrize("what", DISTURBED)
def test_each_cause_is_named_alone(what: str) -> None:
    load, text = DISTURBED[what]
    found = list(causes(USUAL, SpeedWindow(3000, 20.0, load), cpus=2, hosts=()))
    assert len(found) == 1
    assert found[0].startswith(text)


def test_what_was_there_from_the_start_is_no_cause() -> None:
    for load, _ in DISTURBED.values():
        assert list(causes(SpeedWindow(3000, 20.0, load), SpeedWindow(2000, 20.0, load), cpus=2, hosts=())) == []


def test_a_slow_rank() -> None:
    window = replace(USUAL, rank_seconds=(10.0, 21.0, 9.0))
    assert list(causes(USUAL, window, cpus=2, hosts=HOSTS)) == [
        "rank 1 on node1 takes 2.2 times as long as the others, which wait for it"
    ]
    assert list(causes(USUAL, replace(USUAL, rank_seconds=(10.0, 11.0, 9.0)), cpus=2, hosts=HOSTS)) == []


class Machine:
    """Time and counts as a test wants them: `run` makes steps of a second at a speed, with a load for each."""

    def __init__(self) -> None:
        self.load, self.counters, self.parts = MachineLoad(), Counters(), PartClock()
        self.watch = SpeedWatch(self.counters, self.parts, lambda: self.load, cpus=2, hosts=HOSTS)
        self.state = SimpleNamespace(global_step=0)

    def run(self, seconds: int, tokens_per_s: int, **load: float) -> None:
        each: dict[str, Any] = {"own_seconds": 2.0, "busy_seconds": 2.0, **load}
        for _ in range(seconds):
            self.state.global_step += 1
            self.counters.tokens += tokens_per_s
            self.parts.add(PASSES, 1.0)
            self.parts.see_ranks([1.0, 1.0, 1.0])
            before = self.load
            self.load = replace(
                before, seconds=before.seconds + 1, **{n: getattr(before, n) + v for n, v in each.items()}
            )
            self.watch.on_step_end(None, self.state, None)


def test_a_drop_is_told_once_with_its_cause(said: list[str]) -> None:
    machine = Machine()
    machine.run(100, 300)
    assert said == []
    machine.run(60, 150, own_seconds=1.0)
    assert said == [
        "training has slowed down from 300 to 150 tokens/s at step 140: other programs take 50% of the CPU time here "
        "(top shows which)"
    ]
    machine.run(100, 300)
    # Another cause is told too.
    machine.run(60, 100, swapped_pages=9000)
    assert len(said) == 2
    assert "the machine is swapping (35 MiB/s)" in said[1]
    assert machine.watch.told == said


def test_one_slow_window_is_chance(said: list[str]) -> None:
    machine = Machine()
    machine.run(80, 300)
    machine.run(int(WINDOW_SECONDS), 100)
    machine.run(80, 300)
    assert said == []


def test_evaluating_is_not_slow_training(said: list[str]) -> None:
    machine = Machine()
    machine.run(80, 300)
    machine.parts.add("evaluating", 500.0)
    machine.load = replace(machine.load, seconds=machine.load.seconds + 500)
    machine.run(60, 300)
    assert said == []


def test_a_drop_without_a_cause(said: list[str]) -> None:
    machine = Machine()
    machine.run(80, 300)
    machine.run(60, 100)
    assert said[0].endswith("nothing that the machine counts has changed; longer records do it too")


def test_parts_are_timed_and_steps_are_told_from_what_is_between_them() -> None:
    parts = PartClock()
    assert list(parts.reading(iter([1, 2]))) == [1, 2]
    with parts.part("saving"):
        pass
    parts.add(PASSES, 2.0)
    assert set(parts.seconds) == {"reading", "saving", PASSES}
    assert parts.step_seconds == parts.seconds["reading"] + 2.0
    assert parts.own_step(1, 2) == [0.0, 2.0]
    parts.add(PASSES, 0.5)
    assert parts.own_step(1, 2) == [0.0, 0.5]
    parts.see_ranks([1.0, 2.0])
    parts.see_ranks([0.5, 0.0])
    assert parts.rank_seconds == [1.5, 2.0]
