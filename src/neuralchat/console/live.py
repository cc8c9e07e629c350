"""What people look at while training runs: one line that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self, TextIO

from neuralchat.console.messages import is_first_rank, is_log_shown
from neuralchat.console.output import put
from neuralchat.console.standing import Standing
from neuralchat.console.terminal import is_terminal

# Where lines are printed, this is the longest silence.
LONGEST_SILENCE_S = 60.0
# A step that takes longer than this shows how far it has come.
SLOW_STEP_S = 2.0
# What a plain line leaves out: its wording is older than the live line, and scripts read it.
NOT_IN_PLAIN_LINES = ("memory",)
Clock = Callable[[], float]


class Display(Protocol):
    """Where a `Standing` is shown."""

    def start(self, standing: Standing) -> None: ...

    def moved(self, standing: Standing, *, at_once: bool = False) -> None:
        """Something within a step or an activity has moved; `at_once`: worth showing now."""

    def step_done(self, standing: Standing) -> None: ...

    def logged(self, standing: Standing) -> None: ...

    def stop(self, standing: Standing) -> None: ...


class Nothing:
    """A rank that is not the first, or a library that is to be quiet."""

    def start(self, standing: Standing) -> None:
        pass

    def moved(self, standing: Standing, *, at_once: bool = False) -> None:
        pass

    step_done = logged = stop = start


class PlainLines:
    """A line for each logging step, and one a minute where those are rarer."""

    def __init__(self, stream: TextIO | None, clock: Clock) -> None:
        self.stream = stream
        self.clock = clock
        self.printed_at = clock()
        self.owed = False

    def start(self, standing: Standing) -> None:  # noqa: ARG002
        self.printed_at = self.clock()

    def moved(self, standing: Standing, *, at_once: bool = False) -> None:  # noqa: ARG002
        if self.is_overdue():
            self.print(standing)

    def step_done(self, standing: Standing) -> None:
        # A step that is logged has its own line in a moment, so one that is due waits for what comes next.
        if self.owed:
            self.print(standing)
        else:
            self.owed = self.is_overdue()

    def logged(self, standing: Standing) -> None:
        self.print(standing)

    def stop(self, standing: Standing) -> None:
        if self.owed:
            self.print(standing)

    def is_overdue(self) -> bool:
        return self.clock() - self.printed_at >= LONGEST_SILENCE_S

    def print(self, standing: Standing) -> None:
        self.printed_at, self.owed = self.clock(), False
        fields = standing.fields(self.printed_at)
        text = "  ".join(fields[name] for name in fields if name not in NOT_IN_PLAIN_LINES)
        put(text, self.stream or sys.stderr)


class LiveProgress:
    """How training goes, for the person who waits for it. Silent on all ranks but the first.

    Call `within_step` before and after each micro-batch; from there comes the line a minute, without a thread.
    `quiet`: show nothing; None: show it where the log is shown (`show_log`). `stream`: sys.stderr unless given.
    `clock`: seconds, ever growing. As a context it stops, and leaves a sane terminal, however the block ends.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        quiet: bool | None = None,
        stream: TextIO | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.standing = Standing(total_steps)
        self.clock = clock
        self.quiet = not is_log_shown() if quiet is None else quiet
        self.stream = stream
        self.display: Display = Nothing()
        self.step_began_at = clock()
        self.is_slow = self.is_end_told = False

    def start(self) -> None:
        self.step_began_at = self.clock()
        self.display = self.chosen_display()
        self.display.start(self.standing)

    def chosen_display(self) -> Display:
        if self.quiet or not is_first_rank():
            return Nothing()
        stream = self.stream or sys.stderr
        if not is_terminal(stream):
            return PlainLines(self.stream, self.clock)
        from neuralchat.console.drawing import LiveLine

        return LiveLine(stream, self.clock)

    def begin(self, step: int) -> None:
        """Steps begin now, after `step` of them that an earlier part of the run has done."""
        self.standing.step, self.step_began_at = step, self.clock()
        self.display.moved(self.standing)

    def stop(self) -> None:
        """The last line stays. A second call does nothing."""
        self.display.stop(self.standing)
        self.display = Nothing()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def within_step(self, done_fraction: float) -> None:
        """`done_fraction`: of the step under way, from 0 to 1."""
        now = self.clock()
        self.is_slow |= now - self.step_began_at >= SLOW_STEP_S
        self.standing.within_step = done_fraction if self.is_slow else None
        if not self.is_end_told and done_fraction > 0:
            left = self.standing.total_steps - (self.standing.step or 0) - done_fraction
            self.standing.ends_at = now + (now - self.step_began_at) / done_fraction * left
        self.display.moved(self.standing)

    def step_done(
        self,
        step: int,
        *,
        epoch: float,
        loss: float | None,
        tokens_per_s: float | None,
        memory_bytes: int,
        seconds_left: float | None,
    ) -> None:
        """Optimizer step `step` (the first is 1) is done. `loss`: None leaves the one that is shown."""
        self.standing.memory_bytes = memory_bytes
        self.settle(step, epoch, loss, tokens_per_s, seconds_left)
        self.display.step_done(self.standing)

    def logged(
        self, step: int, epoch: float, loss: float | None, tokens_per_s: float | None, seconds_left: float | None
    ) -> None:
        """A logging step: elsewhere than on a terminal it has its line."""
        self.settle(step, epoch, loss, tokens_per_s, seconds_left)
        self.display.logged(self.standing)

    def settle(
        self, step: int, epoch: float, loss: float | None, tokens_per_s: float | None, seconds_left: float | None
    ) -> None:
        now, standing = self.clock(), self.standing
        self.step_began_at, self.is_end_told = now, True
        standing.step, standing.within_step, standing.epoch = step, None, epoch
        standing.loss = standing.loss if loss is None else loss
        standing.tokens_per_s = tokens_per_s
        standing.ends_at = None if seconds_left is None else now + seconds_left

    @contextmanager
    def activity(self, word: str) -> Iterator[Callable[[float], None]]:
        """Show `word` ("evaluating") meanwhile. Yields a function to be told the done fraction of it, from 0 to 1.

        with progress.activity("evaluating") as advance:
            advance(0.5)
        """
        standing = self.standing

        def advance(done_fraction: float) -> None:
            standing.activity_share = done_fraction
            self.display.moved(standing)

        before = standing.activity, standing.activity_share
        standing.activity, standing.activity_share = word, None
        self.display.moved(standing, at_once=True)
        began = self.clock()
        try:
            yield advance
        finally:
            standing.activity, standing.activity_share = before
            # Neither the step nor the run that is left has come nearer to its end meanwhile.
            self.step_began_at += self.clock() - began
            self.display.moved(standing, at_once=True)
