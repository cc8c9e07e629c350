"""Packed rows give the loss and every adapter gradient that examples give one by one in plain transformers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.packed import RELATIVE, assert_equal, lora_model, one_by_one, packed, random_examples
from support.small_models import CAUSAL_FAMILIES

from neuralchat.data.packing import pack

pytestmark = pytest.mark.usefixtures("kernels")


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
