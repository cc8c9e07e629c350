"""How long a run will take, from what the proof's examples took and what the link between ranks costs."""

from __future__ import annotations

from dataclasses import dataclass

from neuralchat.distributed.preflight import Link


@dataclass(frozen=True)
class TimeForecast:
    """`tokens_per_step`: of all ranks together, the mean. `gradient_bytes`: what an all-reduce carries. `correction`:
    how many times as long earlier runs of this kind took.

    seconds of a step = tokens of a rank x seconds per token + latency + gradient bytes / bandwidth
    """

    steps: int
    tokens_per_step: float
    seconds_per_token: float
    world_size: int = 1
    gradient_bytes: int = 0
    link: Link | None = None
    correction: float = 1.0

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
        return self.seconds_of(self.steps)

    def seconds_of(self, steps: int) -> float:
        return self.correction * steps * (self.computing_seconds + self.communicating_seconds)

    @property
    def communication_share(self) -> float:
        step_seconds = self.computing_seconds + self.communicating_seconds
        return self.communicating_seconds / step_seconds if step_seconds else 0.0


def ring(nodes: int, gbit_per_s: float, latency_s: float) -> Link | None:
    """What an all-reduce over `nodes` machines costs; None for a single one.

    In a ring it sends 2 (N - 1) / N of its bytes over each link, in 2 (N - 1) messages (Patarasuk and Yuan, "Bandwidth
    optimal all-reduce algorithms for clusters of workstations", 2009).
    """
    if nodes == 1:
        return None
    return Link(2 * (nodes - 1) * latency_s, gbit_per_s * 1e9 / 8 * nodes / (2 * (nodes - 1)))
