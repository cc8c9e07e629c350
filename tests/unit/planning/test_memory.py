"""planning/memory.py: what backward keeps, counted against torch itself; and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.small_models import small_model

from neuralchat.config.arguments import TuningArguments
from neuralchat.data.layout import Layout
from neuralchat.data.tokenization import Example
from neuralchat.distributed.hardware import Machine, read_machine
from neuralchat.errors import ArgumentsError
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.models.losses.loss_sum import packed_loss_sum
from neuralchat.planning.memory import MemoryForecast, cost_per_token, settle_micro_batch, state_bytes

GIB = 1 << 30
FORECAST = MemoryForecast(
    now_bytes=GIB, state_bytes=GIB // 8, bytes_per_token=GIB / 1024, micro_batch_tokens=4096, longest_example_tokens=200
)


def machine(memory: int, available: int | None = None) -> Machine:
    return replace(read_machine(), total_memory=memory, available_memory=available or memory, memory_quota=None)


def example(length: int, seed: int) -> Example:
    ids = np.random.default_rng(seed).integers(3, 300, length).astype(np.int32)
    return Example(ids, np.arange(length) > length // 2, f"row {seed}")


def test_bytes_kept_are_those_of_a_layer_that_can_be_counted_by_hand() -> None:
    """A linear layer keeps its input for the weight's gradient; tanh keeps its output. Both are counted once."""
    layer = torch.nn.Linear(16, 32, bias=False)
    rows = torch.randn(10, 16)

    def loss_of(examples: Any) -> torch.Tensor:
        return torch.tanh(layer(rows)).sum()

    kept, seconds = cost_per_token(layer, loss_of, [example(10, 0)])
    assert kept == (10 * 16 * 4 + 10 * 32 * 4) / 10
    assert seconds > 0


def test_it_grows_with_tokens_only_and_leaves_no_trace() -> None:
    model = add_adapter(small_model(), TuningArguments(lora_dropout=0.1))
    assert take_packed_rows(model)
    layout = Layout(virtual_tokens_of(model), None)
    before = torch.get_rng_state()

    def loss_of(examples: Any) -> torch.Tensor:
        return packed_loss_sum(model, layout.pack(examples))

    short, long = (cost_per_token(model, loss_of, [example(n, n), example(n, n + 1)])[0] for n in (100, 400))
    assert long == pytest.approx(short, rel=0.1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())


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
