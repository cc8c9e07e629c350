"""planning/pass_cost.py: what a pass keeps, counted by hand; what it takes, against the system; what is left."""

from __future__ import annotations

import doctest
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.small_models import small_model

from neuralchat.config.arguments import TuningArguments
from neuralchat.data.layout import Layout
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.families.packed_layout import take_packed_rows
from neuralchat.models.losses.loss_sum import packed_loss_sum
from neuralchat.planning import pass_cost, process_memory
from neuralchat.planning.pass_cost import MicroBatchSize, kept_bytes, larger_part, measure_pass, size_rule
from neuralchat.planning.process_memory import peak_bytes_so_far, peak_of, set_mark

MIB = 1 << 20


def example(length: int, seed: int = 0) -> Example:
    ids = np.random.default_rng(seed).integers(3, 300, length).astype(np.int32)
    return Example(ids, np.arange(length) > length // 2, f"row {seed}")


def test_doctests() -> None:
    assert doctest.testmod(pass_cost).attempted


def test_bytes_kept_are_those_of_a_layer_that_can_be_counted_by_hand() -> None:
    """A linear layer keeps its input for the weight's gradient; tanh keeps its output. Both are counted once."""
    layer = torch.nn.Linear(16, 32, bias=False)
    rows = torch.randn(10, 16)

    def loss_of(examples: Any) -> torch.Tensor:
        return torch.tanh(layer(rows)).sum()

    assert kept_bytes(layer, loss_of, [example(10)]) == 10 * 16 * 4 + 10 * 32 * 4


def test_it_grows_with_tokens_only_and_leaves_no_trace() -> None:
    model = add_adapter(small_model(), TuningArguments(lora_dropout=0.1))
    assert take_packed_rows(model)
    layout, rule = Layout(virtual_tokens_of(model), None), size_rule(model)
    before = torch.get_rng_state()

    def loss_of(examples: Any) -> torch.Tensor:
        return packed_loss_sum(model, layout.pack(examples))

    def size_of(examples: Sequence[Example]) -> MicroBatchSize:
        return rule.of_examples(examples, layout)

    costs = [measure_pass(model, loss_of, [example(n, n), example(n, n + 1)], size_of) for n in (100, 400)]
    short, long = (cost.kept_bytes_per_token for cost in costs)
    assert long == pytest.approx(short, rel=0.1)
    assert all(cost.seconds(1, 400) > 0 for cost in costs)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())


def test_the_peak_is_what_was_alive_at_once() -> None:
    """Two tensors of 96 MiB at once; the first is gone when one of 32 comes, which may take its place or lie beside it.
    What was freed in the first call counts again in the second.
    """
    if not set_mark():
        pytest.skip("this system does not let a process ask for its peak anew")

    def work() -> None:
        first, second = (torch.ones(96 * MIB // 4) for _ in range(2))
        del first
        torch.ones(32 * MIB // 4).add_(second[:1])

    found = [peak_of(work)[1] for _ in range(2)]
    assert all(190 * MIB < size < 230 * MIB for size in found)
    # Asking anew does not make the process forget what it once had.
    highest = peak_bytes_so_far()
    assert set_mark()
    assert peak_bytes_so_far() >= highest > found[0]


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_memory, "CLEAR_REFS", "/nowhere/clear_refs")
    assert peak_of(lambda: 5) == (5, None)


def test_the_work_of_a_batch_counts_the_head() -> None:
    """A llama of 2 layers, 32 wide, with a table of 400 rows that is the head too; counted by hand."""
    model = small_model()
    body = sum(p.numel() for p in model.parameters()) - 400 * 32
    rule = size_rule(model)
    assert rule.head_share == pytest.approx(400 * 32 / body)
    packed = rule.of_examples([example(10)], Layout())
    assert packed.tokens == 10
    assert packed.work == pytest.approx(10 + rule.head_share * int(example(10).supervised.sum()))
    # Padded to the longest, and each position has logits.
    padded = rule.of_padded([example(10), example(4)])
    assert (padded.tokens, padded.work) == (20, pytest.approx(20 * (1 + rule.head_share)))


def test_the_larger_pass_is_as_large_as_time_allows() -> None:
    examples = [example(n) for n in (20, 40, 60, 80, 100, 120, 140)]
    assert sum(len(e.input_ids) for e in larger_part(examples, 0.01)) >= 512
    # 20 tokens took 8 seconds: three times as many, not more.
    assert larger_part(examples, 8.0) == examples[:2]
