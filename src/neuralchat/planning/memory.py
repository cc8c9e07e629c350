"""How much memory a run will need, told before it starts: weights, trained state, what a micro-batch takes at its peak.

That is measured with two small passes over real examples (pass_cost.py), and grows with the tokens of a micro-batch and
nothing else, since no mask and no logits are kept. Where the system does not tell of peaks, what autograd keeps is
counted instead, and a tenth and a bit added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from neuralchat.console import gib, note
from neuralchat.distributed.hardware import Machine
from neuralchat.errors import ArgumentsError
from neuralchat.planning.pass_cost import PassCost

# The head works in chunks of 32 MiB, of which a few are alive at once; the rest is the allocator's slack.
FIXED_BYTES = 384 << 20
SLACK = 1.15
# Of what was measured: blocks that do not fit into each other's gaps, and what else a process comes to need.
MEASURED_SLACK, GROWTH_BYTES = 1.02, 24 << 20
# fp32 values an optimizer keeps for each trained one, besides the gradient.
OPTIMIZER_VALUES = {"sgd": 0, "adafactor": 1, "adagrad": 1, "rmsprop": 1}
USUAL_OPTIMIZER_VALUES = 2
SMALLEST_MICRO_BATCH_TOKENS = 64


@dataclass(frozen=True)
class MemoryForecast:
    """`now_bytes`: of this process before training; `state_bytes`: gradients and optimizer; `bytes_per_token` and
    `fixed_bytes`: what a micro-batch takes at its peak. `longest_example_tokens`: a micro-batch is never smaller than
    an example, and `largest_tokens`: none of the run is larger, if that is known. `besides_bytes`: kept all through
    training. `earlier_peak_bytes`: what the process has had at most already. `weights_bytes`: part of `now_bytes`.
    `correction`: how many times as much earlier runs of this kind took.
    """

    now_bytes: int
    state_bytes: int
    bytes_per_token: float
    micro_batch_tokens: int
    longest_example_tokens: int
    largest_tokens: int | None = None
    fixed_bytes: int = FIXED_BYTES
    slack: float = SLACK
    besides_bytes: int = 0
    earlier_peak_bytes: int = 0
    weights_bytes: int = 0
    correction: float = 1.0

    def tokens_at_once(self, micro_batch_tokens: int | None = None) -> int:
        """Of the largest micro-batch."""
        tokens = max(micro_batch_tokens or self.micro_batch_tokens, self.longest_example_tokens)
        return tokens if self.largest_tokens is None else min(tokens, self.largest_tokens)

    def micro_batch_bytes(self, micro_batch_tokens: int | None = None) -> int:
        return int(self.slack * self.bytes_per_token * self.tokens_at_once(micro_batch_tokens)) + self.fixed_bytes

    def peak_bytes(self, micro_batch_tokens: int | None = None) -> int:
        """At the peak of training."""
        held = self.now_bytes + int(self.slack * self.state_bytes) + self.besides_bytes
        return int(self.correction * (held + self.micro_batch_bytes(micro_batch_tokens)))

    @property
    def run_peak_bytes(self) -> int:
        """Of the whole run: loading may have taken more than training will."""
        return max(self.earlier_peak_bytes, self.peak_bytes())

    @property
    def uncorrected(self) -> MemoryForecast:
        return replace(self, correction=1.0)

    def parts(self) -> dict[str, int]:
        """Bytes by what takes them at the peak of training."""
        return {
            "weights": self.weights_bytes,
            "gradients and optimizer": self.state_bytes,
            "tokens at once": self.micro_batch_bytes(),
            "what is kept of the base model": self.besides_bytes,
            "program": max(0, self.now_bytes - self.weights_bytes),
        }

    def largest_micro_batch_tokens(self, limit_bytes: int) -> int | None:
        """The largest halving of micro_batch_tokens whose peak is within `limit_bytes`; None if none is."""
        tokens = self.micro_batch_tokens
        while tokens >= max(SMALLEST_MICRO_BATCH_TOKENS, self.longest_example_tokens // 2):
            if self.peak_bytes(tokens) <= limit_bytes:
                return tokens
            tokens //= 2
        return None


def measured_forecast(forecast: MemoryForecast, cost: PassCost) -> MemoryForecast:
    """`forecast` with what a pass was measured to take, where the system tells."""
    if cost.fixed_bytes is None or cost.bytes_per_token is None:
        return replace(forecast, bytes_per_token=cost.kept_bytes_per_token)
    return replace(
        forecast,
        bytes_per_token=cost.bytes_per_token,
        fixed_bytes=cost.fixed_bytes + GROWTH_BYTES,
        slack=MEASURED_SLACK,
    )


def state_bytes(model: Any, optimizer: str) -> int:
    """Gradients and optimizer state of what is trained, in memory."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    values = next((n for name, n in OPTIMIZER_VALUES.items() if optimizer.startswith(name)), USUAL_OPTIMIZER_VALUES)
    return trained * (1 + values)


# Weights take the place of their gradients; tokenizer and the rest of the state are small.
checkpoint_bytes = state_bytes


def settle_micro_batch(forecast: MemoryForecast, machine: Machine, *, local_size: int, auto: bool) -> int:
    """The micro_batch_tokens to train with. Raises ArgumentsError where memory will not do.

    `local_size` processes share this machine. With `auto` a smaller micro-batch is taken where one is needed.
    """
    limit_bytes = machine.memory_limit() // local_size
    free_bytes = machine.available_memory // local_size + forecast.now_bytes
    obtainable = min(limit_bytes, free_bytes)
    peak = forecast.peak_bytes()
    if peak <= obtainable:
        return forecast.micro_batch_tokens
    smaller = forecast.largest_micro_batch_tokens(obtainable)
    told = f"training will need about {gib(peak)} of memory, {gib(obtainable)} can be had"
    if smaller is not None and auto:
        note(f"{told}: --micro_batch_tokens {forecast.micro_batch_tokens} becomes {smaller}, which changes no result")
        return smaller
    advice = (
        f"use --micro_batch_tokens {smaller}, which changes no result, or --auto_micro_batch"
        if smaller is not None
        else "use --gradient_checkpointing, shorter examples (--max_seq_length), --bf16 True, --bits 8 or a smaller "
        "model"
    )
    if peak > limit_bytes:
        raise ArgumentsError(f"{told}; {advice}")
    note(f"{told} now: close other programs, or {advice}")
    return forecast.micro_batch_tokens
