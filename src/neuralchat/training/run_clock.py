"""How long a run may take, and when it is to save again: --max_hours, --save_every_minutes."""

from __future__ import annotations

import time


def seconds_since_boot() -> float:
    """A clock that nobody sets, and that goes on while the machine is suspended, as that of a batch system does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class RunClock:
    """Begins when it is made. None: no limit.

    The run is to end before its time is over: what a step and a save have taken at most so far must still fit.
    """

    def __init__(self, max_hours: float | None = None, save_every_minutes: float | None = None) -> None:
        self.max_hours = max_hours
        self.save_every_minutes = save_every_minutes
        self.began = self.saved_at = seconds_since_boot()
        self.step_began: float | None = None
        self.steps_begun = 0
        self.longest_step = self.longest_save = 0.0
        # Whether the ranks have agreed to end for it.
        self.has_ended_run = False

    def step_begins(self) -> None:
        """Called at the beginning of each step; what happens in between, such as an evaluation, counts to it."""
        now = seconds_since_boot()
        if self.step_began is not None:
            self.longest_step = max(self.longest_step, now - self.step_began)
        self.step_began = now
        self.steps_begun += 1

    def saved(self, seconds: float) -> None:
        """A checkpoint was written, for whatever reason."""
        self.saved_at = seconds_since_boot()
        self.longest_save = max(self.longest_save, seconds)

    def is_up(self) -> bool:
        """Whether the run is to be saved now, and to end."""
        if self.max_hours is None or self.steps_begun < 2:
            # However short the time, each start takes a step further.
            return False
        elapsed = seconds_since_boot() - self.began
        return elapsed + self.longest_step + self.longest_save >= self.max_hours * 3600

    def is_save_due(self) -> bool:
        if self.save_every_minutes is None:
            return False
        return seconds_since_boot() - self.saved_at >= self.save_every_minutes * 60
