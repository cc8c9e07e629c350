"""How many answers an evaluation takes, how many there are, and how long the others will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from neuralchat.console import inform
from neuralchat.console.units import duration

# Between two lines; as elsewhere where lines are printed.
BETWEEN_LINES_S = 60.0
# What is over sooner needs no forecast.
FORECAST_FROM_S = 10.0


class AnswersToCome:
    """Counts answers of all systems; only the time of answering is counted. `clock`: seconds, ever growing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.total = self.done = 0
        self.seconds = 0.0
        self.since = self.told_at = clock()

    def expect(self, questions: int, systems: int, max_new_tokens: int) -> None:
        """Tell what is coming."""
        self.total += questions * systems
        if self.total:
            asked = f"{questions:,} question{'s' * (questions != 1)}"
            whom = "" if systems == 1 else f" to each of {systems} models"
            answers = f"{self.total:,} answer{'s' * (self.total != 1)}"
            inform(f"{asked}{whom}: {answers} of at most {max_new_tokens} tokens")

    def begin(self) -> None:
        """Answering goes on now, after what was not answering."""
        self.since = self.clock()

    def answered(self, count: int) -> None:
        """Tells the time left with the first of them, and then once in a minute."""
        now = self.clock()
        self.seconds += now - self.since
        is_first, self.since, self.done = not self.done, now, self.done + count
        left = self.seconds / self.done * (self.total - self.done)
        if left >= FORECAST_FROM_S and (is_first or now - self.told_at >= BETWEEN_LINES_S):
            self.told_at = now
            inform(f"{self.done:,} of {self.total:,} answered; the others take about {duration(left)}")
