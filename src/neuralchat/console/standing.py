"""How far training has come, as the words of one line."""

from __future__ import annotations

from dataclasses import dataclass

from neuralchat.console.units import clock, gib, speed


@dataclass
class Standing:
    """`step`: steps done, None before the first begins. `within_step`: done part, from 0 to 1, of the step after it;
    None where steps are too short to tell. `activity`: what goes on instead of a step, done to `activity_share`.

    `ends_at`: when the run will be over, by the clock whose time `fields` is given. None: not known yet.
    """

    total_steps: int
    step: int | None = None
    within_step: float | None = None
    activity: str = ""
    activity_share: float | None = None
    epoch: float | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    memory_bytes: int | None = None
    ends_at: float | None = None

    def fields(self, now: float) -> dict[str, str]:
        """What is known, in the order in which it is shown.

        >>> "  ".join(Standing(18, step=3, epoch=0.5, loss=6.3684, tokens_per_s=23906, ends_at=75).fields(0).values())
        'step 3/18  epoch 0.50  loss 6.3684  23906 tokens/s  1:15 left'
        """
        within = f" +{self.within_step:.0%}" if self.within_step else ""
        activity = "" if self.activity_share is None else f" {self.activity_share:.0%}"
        known = {
            "step": None if self.step is None else f"step {self.step}/{self.total_steps}{within}",
            "activity": self.activity and f"{self.activity}{activity}",
            "epoch": None if self.epoch is None else f"epoch {self.epoch:.2f}",
            "loss": None if self.loss is None else f"loss {self.loss:.4f}",
            "speed": None if not self.tokens_per_s else f"{speed(self.tokens_per_s)} tokens/s",
            "memory": None if self.memory_bytes is None else gib(self.memory_bytes),
            "left": None if self.ends_at is None else f"{clock(max(0.0, self.ends_at - now))} left",
        }
        return {name: text for name, text in known.items() if text}

    def share(self) -> float:
        """Done part of all steps, or of what comes before the first, from 0 to 1."""
        if self.step is None:
            return self.activity_share or 0.0
        return min(1.0, (self.step + (self.within_step or 0.0)) / max(1, self.total_steps))
