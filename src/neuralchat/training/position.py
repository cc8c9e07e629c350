"""Where training stands in its epochs; part of every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Position:
    """`step`: optimizer steps done of this epoch. `ended`: the epoch's end has been reached, so that only what is due
    there may be left. `skipped`: steps left out since a callback ended epochs early.
    """

    epoch: int = 0
    step: int = 0
    ended: bool = False
    skipped: int = 0

    def check(self, steps_per_epoch: int, global_step: int) -> None:
        """Raises ValueError for what no run whose epochs have so many steps can have written after `global_step`."""
        if [type(value) for value in asdict(self).values()] != [int, int, bool, int]:
            raise ValueError(f"it stands at {self}")
        done = self.epoch * steps_per_epoch + self.step - self.skipped
        if min(asdict(self).values()) < 0 or self.step > steps_per_epoch or done != global_step:
            raise ValueError(
                f"it stands at step {self.step} of epoch {self.epoch + 1}, {global_step} in all; "
                f"an epoch has {steps_per_epoch} steps now"
            )
