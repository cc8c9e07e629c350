"""Training that has become slower is told, with what the machine says is the cause. Nothing is stopped.

Speed is that of optimizer steps alone, in windows of some seconds; a window is slow against the usual one of the first
windows. A cause is named only where it was not there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from transformers import TrainerCallback

from neuralchat.console import note
from neuralchat.distributed.machine_load import MachineLoad
from neuralchat.watching.counters import Counters
from neuralchat.watching.part_clock import PartClock

WINDOW_SECONDS = 20.0
# Windows by which the usual speed is known; and how many slow ones in a row are no chance.
USUAL_WINDOWS, SLOW_WINDOWS = 3, 2
SLOW = 0.75
# A share of CPU time that others take, or that is taken away, which slows down what is computed.
NOTICEABLE_SHARE = 0.1
# Pages a second, of 4 KiB each: a disk that is busy with them.
MANY_PAGES = 500.0
# How many times as long as the others a slow rank takes.
SLOW_RANK = 1.25


@dataclass(frozen=True)
class SpeedWindow:
    """Of some seconds of steps. `load`: what the machine did in all of it. `rank_seconds`: of passes, by rank."""

    tokens: int
    step_seconds: float
    load: MachineLoad
    rank_seconds: tuple[float, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / max(self.step_seconds, 1e-9)

    def others_share(self, cpus: int) -> float:
        """The part of this process's CPUs that other programs took."""
        return max(0.0, self.load.busy_seconds - self.load.own_seconds) / max(self.load.seconds * cpus, 1e-9)

    def share(self, seconds: float) -> float:
        return seconds / max(self.load.seconds, 1e-9)


def causes(usual: SpeedWindow, now: SpeedWindow, *, cpus: int, hosts: Sequence[str]) -> Iterator[str]:
    """What is different now and slows down. `hosts`: of every rank."""
    load, before = now.load, usual.load
    if (swapped := load.swapped_pages / load.seconds) > MANY_PAGES + before.swapped_pages / before.seconds:
        yield (
            f"the machine is swapping ({swapped * 4 / 1024:.0f} MiB/s): memory is short; end other programs, or go on "
            "with a smaller --micro_batch_tokens, which changes no result"
        )
    elif (faults := load.major_faults / load.seconds) > MANY_PAGES + before.major_faults / before.seconds:
        yield (
            f"weights come from the disk again ({faults * 4 / 1024:.0f} MiB/s), since memory is short: end other "
            "programs"
        )
    if now.share(load.limited_seconds) > NOTICEABLE_SHARE + usual.share(before.limited_seconds):
        yield (
            f"the container's CPU quota stops it for {now.share(load.limited_seconds):.0%} of the time: a higher "
            "quota, or fewer threads (OMP_NUM_THREADS)"
        )
    if (stolen := now.share(load.stolen_seconds) / cpus) > NOTICEABLE_SHARE + usual.share(before.stolen_seconds) / cpus:
        yield f"the host takes {stolen:.0%} of this virtual machine's CPU time for others"
    if (others := now.others_share(cpus)) > NOTICEABLE_SHARE + usual.others_share(cpus):
        yield f"other programs take {others:.0%} of the CPU time here (top shows which)"
    if load.throttled > before.throttled:
        yield f"cores were slowed down for heat {load.throttled} times: look at the cooling"
    yield from slow_ranks(now, hosts)


def slow_ranks(now: SpeedWindow, hosts: Sequence[str]) -> Iterator[str]:
    if len(now.rank_seconds) < 2:
        return
    slowest = max(range(len(now.rank_seconds)), key=lambda rank: now.rank_seconds[rank])
    others = median(seconds for rank, seconds in enumerate(now.rank_seconds) if rank != slowest)
    if now.rank_seconds[slowest] > SLOW_RANK * others > 0:
        times = now.rank_seconds[slowest] / others
        yield f"rank {slowest} on {hosts[slowest]} takes {times:.1f} times as long as the others, which wait for it"


class SpeedWatch(TrainerCallback):
    """Looks every `WINDOW_SECONDS`; `read` says what the machine does. What it told is kept in `told`."""

    def __init__(
        self,
        counters: Counters,
        parts: PartClock,
        read: Callable[[], MachineLoad],
        *,
        cpus: int,
        hosts: Sequence[str] = (),
    ) -> None:
        self.counters, self.parts, self.read = counters, parts, read
        self.cpus, self.hosts = cpus, hosts
        self.first: list[SpeedWindow] = []
        self.slow = 0
        self.causes_told: set[str] = set()
        self.told: list[str] = []
        self.begin()

    def begin(self) -> None:
        """A new window."""
        self.load = self.read()
        self.tokens, self.step_seconds = self.counters.tokens, self.parts.step_seconds
        self.rank_seconds = list(self.parts.rank_seconds)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self.parts.step_seconds - self.step_seconds < WINDOW_SECONDS:
            return
        ranks = self.parts.rank_seconds
        before = self.rank_seconds or [0.0] * len(ranks)
        window = SpeedWindow(
            self.counters.tokens - self.tokens,
            self.parts.step_seconds - self.step_seconds,
            self.read() - self.load,
            tuple(now - then for now, then in zip(ranks, before, strict=True)),
        )
        self.begin()
        self.see(window, state.global_step)

    def see(self, window: SpeedWindow, step: int) -> None:
        if len(self.first) < USUAL_WINDOWS:
            self.first.append(window)
            return
        usual = sorted(self.first, key=lambda w: w.tokens_per_s)[USUAL_WINDOWS // 2]
        self.slow = self.slow + 1 if window.tokens_per_s < SLOW * usual.tokens_per_s else 0
        if self.slow < SLOW_WINDOWS:
            return
        found = list(causes(usual, window, cpus=self.cpus, hosts=self.hosts))
        # The same cause with another figure is no news.
        kinds = {" ".join(text.split()[:3]) for text in found} or {"none"}
        if kinds <= self.causes_told:
            return
        self.causes_told |= kinds
        why = "; ".join(found) or "nothing that the machine counts has changed; longer records do it too"
        speeds = f"from {usual.tokens_per_s:.0f} to {window.tokens_per_s:.0f} tokens/s"
        text = f"training has slowed down {speeds} at step {step}: {why}"
        self.told.append(text)
        note(text)
