"""How much memory a run will need, told before it starts: weights, trained state, what backward keeps per token.

What backward keeps is counted, not modelled: a forward pass over a few real examples, every tensor that autograd saves,
each storage once. It grows with the tokens of a micro-batch and nothing else, since no mask and no logits are kept.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from neuralchat.checkpointing.rng import rng_state, set_rng_state
from neuralchat.console import gib, note
from neuralchat.data.tokenization import Example
from neuralchat.distributed.hardware import Machine
from neuralchat.errors import ArgumentsError

# The head works in chunks of 32 MiB, of which a few are alive at once; the rest is the allocator's slack.
FIXED_BYTES = 384 << 20
SLACK = 1.15
# fp32 values an optimizer keeps for each trained one, besides the gradient.
OPTIMIZER_VALUES = {"sgd": 0, "adafactor": 1, "adagrad": 1, "rmsprop": 1}
USUAL_OPTIMIZER_VALUES = 2
SMALLEST_MICRO_BATCH_TOKENS = 64


@dataclass(frozen=True)
class MemoryForecast:
    """`now_bytes`: of this process before training; `state_bytes`: gradients and optimizer; `bytes_per_token`: what
    backward keeps. `longest_example_tokens`: a micro-batch is never smaller than an example.
    """

    now_bytes: int
    state_bytes: int
    bytes_per_token: float
    micro_batch_tokens: int
    longest_example_tokens: int

    def peak_bytes(self, micro_batch_tokens: int | None = None) -> int:
        tokens = max(micro_batch_tokens or self.micro_batch_tokens, self.longest_example_tokens)
        return int(self.now_bytes + SLACK * (self.state_bytes + self.bytes_per_token * tokens) + FIXED_BYTES)

    def largest_micro_batch_tokens(self, limit_bytes: int) -> int | None:
        """The largest halving of micro_batch_tokens whose peak is within `limit_bytes`; None if none is."""
        tokens = self.micro_batch_tokens
        while tokens >= max(SMALLEST_MICRO_BATCH_TOKENS, self.longest_example_tokens // 2):
            if self.peak_bytes(tokens) <= limit_bytes:
                return tokens
            tokens //= 2
        return None


def cost_per_token(
    model: Any, loss_of: Callable[[Sequence[Example]], torch.Tensor], examples: Sequence[Example]
) -> tuple[float, float]:
    """(bytes that autograd keeps, seconds of a forward and backward pass) for each token of these examples."""
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    was_training = model.training
    model.train()
    rng = rng_state()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # Alive until all is counted: storages that are freed would give their addresses to others.
        loss = loss_of(examples)
    torch.autograd.grad(loss, trained, allow_unused=True)
    # Once more for the time, now that everything is compiled and its pages are there.
    start = time.perf_counter()
    torch.autograd.grad(loss_of(examples), trained, allow_unused=True)
    seconds = time.perf_counter() - start
    set_rng_state(rng)
    model.train(was_training)
    tokens = sum(len(example.input_ids) for example in examples)
    return sum(seen.values()) / tokens, seconds / tokens


def state_bytes(model: Any, optimizer: str) -> int:
    """Gradients and optimizer state of what is trained, in memory."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    values = next((n for name, n in OPTIMIZER_VALUES.items() if optimizer.startswith(name)), USUAL_OPTIMIZER_VALUES)
    return trained * (1 + values)


# Weights take the place of their gradients; tokenizer and the rest of the state are small.
checkpoint_bytes = state_bytes


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


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


def peak_memory_mb() -> int:
    """The most memory that this process has had, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak >> (20 if sys.platform == "darwin" else 10)
