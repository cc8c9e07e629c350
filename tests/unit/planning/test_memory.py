"""planning/memory.py: what backward keeps, counted against torch itself; and what follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from neuralchat.distributed.hardware import Machine, read_machine
from neuralchat.errors import ArgumentsError
from neuralchat.planning.memory import MemoryForecast, measured_forecast, settle_micro_batch, state_bytes
from neuralchat.planning.pass_cost import PassCost

GIB = 1 << 30
FORECAST = MemoryForecast(
    now_bytes=GIB, state_bytes=GIB // 8, bytes_per_token=GIB / 1024, micro_batch_tokens=4096, longest_example_tokens=200
)


def machine(memory: int, available: int | None = None) -> Machine:
    return replace(read_machine(), total_memory=memory, available_memory=available or memory, memory_quota=None)


def test_parts_and_peak() -> None:
    """1 GiB now, of which 0.5 are weights; 0.25 of state; a pass of 100 MB and 1 MB per token; 600 tokens at most."""
    plain = MemoryForecast(
        now_bytes=1 << 30, state_bytes=1 << 28, bytes_per_token=1.0, micro_batch_tokens=1024, longest_example_tokens=10,
        largest_tokens=600, besides_bytes=1 << 20, weights_bytes=1 << 29, slack=1.0, earlier_peak_bytes=5 << 30,
    )  # fmt: skip
    forecast = replace(plain, bytes_per_token=1e6, fixed_bytes=100_000_000)
    assert forecast.tokens_at_once() == 600
    assert forecast.tokens_at_once(256) == 256
    parts = forecast.parts()
    assert parts["tokens at once"] == 700_000_000
    assert parts["program"] == parts["weights"] == 1 << 29
    assert forecast.peak_bytes() == sum(parts.values()) == (1 << 30) + (1 << 28) + (1 << 20) + 700_000_000
    # Loading took more than training will.
    assert forecast.run_peak_bytes == 5 << 30
    assert replace(forecast, correction=2.0).peak_bytes() == 2 * forecast.peak_bytes()


def test_what_a_pass_took_replaces_what_is_assumed() -> None:
    counted = measured_forecast(FORECAST, PassCost(2e6, 0.0, 1.0))
    assert (counted.bytes_per_token, counted.fixed_bytes, counted.slack) == (2e6, FORECAST.fixed_bytes, FORECAST.slack)
    measured = measured_forecast(FORECAST, PassCost(2e6, 0.0, 1.0, fixed_bytes=0, bytes_per_token=3e6))
    assert measured.bytes_per_token == 3e6
    assert measured.peak_bytes() < counted.peak_bytes() + 4096 * 1e6


@pytest.mark.parametrize(("optimizer", "values"), [("adamw_torch", 3), ("adamw_torch_fused", 3), ("sgd", 1)])
def test_state_of_what_is_trained(optimizer: str, values: int) -> None:
    layer = torch.nn.Linear(10, 10)
    layer.bias.requires_grad_(False)
    assert state_bytes(layer, optimizer) == 100 * 4 * values


def test_what_fits_is_left_alone(said: list[str]) -> None:
    assert settle_micro_batch(FORECAST, machine(16 * GIB), local_size=1, auto=False) == 4096
    assert said == []


def test_what_never_fits_is_refused_with_what_would(said: list[str]) -> None:
    with pytest.raises(
        ArgumentsError, match=r"about 6\.\d GiB of memory, 4\.0 GiB can be had; use --micro_batch_tokens 2048, which"
    ):
        settle_micro_batch(FORECAST, machine(4 * GIB), local_size=1, auto=False)
    assert settle_micro_batch(FORECAST, machine(4 * GIB), local_size=1, auto=True) == 2048
    assert "--micro_batch_tokens 4096 becomes 2048" in said[0]


def test_processes_of_a_machine_share_it() -> None:
    with pytest.raises(ArgumentsError, match=r"4\.0 GiB can be had"):
        settle_micro_batch(FORECAST, machine(16 * GIB), local_size=4, auto=False)


def test_memory_that_others_use_now_is_a_warning(said: list[str]) -> None:
    full = machine(16 * GIB, available=2 * GIB)
    assert settle_micro_batch(FORECAST, full, local_size=1, auto=False) == 4096
    assert "3.0 GiB can be had now: close other programs, or use --micro_batch_tokens 1024" in said[0]


def test_an_example_is_never_split() -> None:
    long = replace(FORECAST, longest_example_tokens=4000)
    assert long.peak_bytes(64) == long.peak_bytes(4000)
    with pytest.raises(ArgumentsError, match=r"use --gradient_checkpointing, shorter examples \(--max_seq_length\)"):
        settle_micro_batch(long, machine(4 * GIB), local_size=1, auto=True)
