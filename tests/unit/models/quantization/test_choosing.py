"""Which layers get how many bits, and what they take."""

from __future__ import annotations

import pytest
import torch
from support.small_models import small_model
from transformers import LlamaConfig, LlamaForCausalLM

from neuralchat.models.layers.quantized_linear import quantize_linear, quantized_numbers
from neuralchat.models.quantization.choosing import bits_of_layers, quantizable_weights

# Each head of MPT and T5 has keys and values of its own.
SENSITIVE: dict[str, set[str]] = {
    "llama": {"k_proj", "v_proj"},
    "qwen2": {"k_proj", "v_proj"},
    "mpt": set(),
    "t5": set(),
}


@pytest.mark.parametrize("family", SENSITIVE)
def test_what_suffers_most_from_rounding_is_kept_in_8_bits(family: str) -> None:
    model = small_model(family)
    finer = {path.rpartition(".")[2] for path, bits in bits_of_layers(model, 4).items() if bits == 8}
    assert finer == SENSITIVE[family]
    assert set(bits_of_layers(model, 8).values()) == {8}


@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_planned_is_what_they_take(bits: int) -> None:
    """But for scales, which planning counts for wide rows."""
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=128, intermediate_size=256, num_attention_heads=4, num_key_value_heads=1, vocab_size=64)
    )
    planned = quantizable_weights(model)
    for path, own in bits_of_layers(model, bits).items():
        layer = model.get_submodule(path)
        quantize_linear(layer, own, layer.weight, torch.float32)
    counts = quantized_numbers(model)
    assert sum(counts.values()) == planned.count
    assert counts[8] == (planned.count if bits == 8 else planned.sensitive) > 0
    codes = sum(
        module.quantized.codes.numel() * module.quantized.codes.element_size()
        for module in model.modules()
        if hasattr(module, "quantized")
    )
    assert codes == pytest.approx(planned.bytes_in(bits), rel=0.05)
