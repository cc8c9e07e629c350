"""Packed rows give the loss and every adapter gradient that examples give one by one in plain transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from small_models import CAUSAL_FAMILIES, small_model

from neuralchat.data.packing import pack
from neuralchat.data.tokenization import Example
from neuralchat.models.attention import segments as segment_attention
from neuralchat.models.layers.frozen_linear import freeze_linears
from neuralchat.models.layers.fused import fuse_layers
from neuralchat.models.layers.fused_lora import fuse_lora
from neuralchat.models.losses.causal import packed_loss_sum

pytestmark = pytest.mark.usefixtures("kernels")
VOCABULARY = 97
RELATIVE = 1e-5


def lora_model(family: str, targets: Any = ("q_proj", "v_proj"), seed: int = 0) -> Any:
    """A small model with LoRA whose matrices are not zero."""
    model = small_model(family, VOCABULARY, seed)
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


def one_by_one(model: Any, examples: Sequence[Example]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss sum and gradients with transformers' own attention, whole logits, no packing: the reference."""
    model.zero_grad()
    total = 0.0
    for example in examples:
        ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(example.supervised)[None], ids, -100)
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits[0], labels[0, 1:], reduction="sum")
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def packed(model: Any, examples: Sequence[Example], *, share: bool = True) -> tuple[float, dict[str, torch.Tensor]]:
    segment_attention.register()
    base = model.get_base_model()
    plain = base.config._attn_implementation
    base.set_attn_implementation(segment_attention.IMPLEMENTATION)
    freeze_linears(model)
    fuse_layers(model)
    fuse_lora(model)
    model.zero_grad()
    loss = packed_loss_sum(model, pack(examples, share_prefix=share))
    loss.backward()
    base.set_attn_implementation(plain)
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_equal(model: Any, examples: Sequence[Example], *, share: bool = True) -> None:
    expected_loss, expected = one_by_one(model, examples)
    loss, gradients = packed(model, examples, share=share)
    assert loss == pytest.approx(expected_loss, rel=RELATIVE)
    # A gradient is measured against the whole gradient: single entries may be nothing but rounding.
    size = torch.stack([g.norm() for g in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= RELATIVE * size, name
        assert gradient.norm() > 0, name


def example(ids: Sequence[int], answer_from: int) -> Example:
    supervised = np.zeros(len(ids), dtype=bool)
    supervised[max(answer_from, 1) :] = True
    return Example(np.array(ids, dtype=np.int32), supervised, "test")


def random_examples(seed: int, count: int, *, prefixes: Sequence[int] = (12,), everything: bool = False) -> list:
    """Examples of 1 to 30 own tokens after one of several beginnings; some answers are a single token."""
    rng = np.random.default_rng(seed)
    beginnings = [rng.integers(0, VOCABULARY, size) for size in prefixes]
    found = []
    for index in range(count):
        own = rng.integers(0, VOCABULARY, int(rng.integers(2, 31)))
        ids = np.concatenate([beginnings[index % len(beginnings)], own])
        answer = 1 if index % 3 == 0 else int(rng.integers(1, len(own)))
        found.append(example(ids.tolist(), 1 if everything else len(ids) - answer))
    return found


@pytest.mark.parametrize("family", CAUSAL_FAMILIES)
@pytest.mark.parametrize("share", [True, False])
def test_mixed_lengths(family: str, share: bool) -> None:
    # Mistral's window of 24 tokens is shorter than some of these.
    assert_equal(lora_model(family), random_examples(1, 7), share=share)


@pytest.mark.parametrize("family", ["llama", "llama_bias"])
def test_several_prefixes_in_one_row(family: str) -> None:
    examples = random_examples(2, 9, prefixes=(12, 20, 9))
    assert len({s.prefix_start for s in pack(examples).segments if s.prefix_end > s.prefix_start}) >= 2
    assert_equal(lora_model(family), examples)


def test_training_on_inputs_counts_a_shared_prefix_for_each_example() -> None:
    assert_equal(lora_model("llama"), random_examples(3, 6, everything=True))


def test_every_linear_layer() -> None:
    assert_equal(lora_model("llama", "all-linear"), random_examples(4, 6))


def test_identical_examples() -> None:
    same = random_examples(5, 1)[0]
    assert_equal(lora_model("llama"), [same, same, same])


def test_gradient_checkpointing() -> None:
    model, examples = lora_model("llama"), random_examples(6, 6)
    expected_loss, expected = one_by_one(model, examples)
    model.get_base_model().gradient_checkpointing_enable()
    model.train()
    loss, gradients = packed(model, examples)
    assert loss == pytest.approx(expected_loss, rel=RELATIVE)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 8),
    prefixes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    everything=st.booleans(),
)
def test_random_batches(seed: int, count: int, prefixes: list[int], everything: bool) -> None:
    assert_equal(lora_model("llama"), random_examples(seed, count, prefixes=prefixes, everything=everything))


def test_a_neighbour_does_not_change_an_example() -> None:
    """What would be wrong with mixed samples: the loss of one example depends on what lies beside it."""
    model = lora_model("llama")
    first, second, third = random_examples(7, 3, prefixes=(3, 4, 5))
    alone = packed(model, [first])[0] + packed(model, [second])[0]
    assert packed(model, [first, second])[0] == pytest.approx(alone, rel=RELATIVE)
    assert packed(model, [first, third])[0] != pytest.approx(alone, rel=1e-2)


def test_an_adapted_head() -> None:
    """PEFT's layer around the head is called Linear too, but it is no plain matrix."""
    assert_equal(lora_model("llama_mha", ["q_proj", "lm_head"]), random_examples(8, 5))
