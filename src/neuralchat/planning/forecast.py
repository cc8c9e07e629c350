"""How long a run will take, from what the proof's examples took and what the link between ranks costs."""

from __future__ import annotations

from dataclasses import dataclass

from neuralchat.distributed.preflight import Link


@dataclass(frozen=True)
class TimeForecast:
    """`tokens_per_step`: of all ranks together, the mean. `gradient_bytes`: what an all-reduce carries.

    seconds of a step = tokens of a rank x seconds per token + latency + gradient bytes / bandwidth
    """

    steps: int
    tokens_per_step: float
    seconds_per_token: float
    world_size: int = 1
    gradient_bytes: int = 0
    link: Link | None = None

    @property
    def computing_seconds(self) -> float:
        """Per step, on each rank."""
        return self.tokens_per_step * self.seconds_per_token / self.world_size

    @property
    def communicating_seconds(self) -> float:
        """Per step."""
        return 0.0 if self.link is None else self.link.seconds(self.gradient_bytes)

    @property
    def training_seconds(self) -> float:
        """Of all steps, without evaluation and checkpoints."""
        return self.steps * (self.computing_seconds + self.communicating_seconds)

    @property
    def communication_share(self) -> float:
        step_seconds = self.computing_seconds + self.communicating_seconds
        return self.communicating_seconds / step_seconds if step_seconds else 0.0
