"""Internal names of PEFT, each with the reason why no public one does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# The LoRA layer around nn.Linear, whose class is taken over; PEFT exports configurations and models, not layers.
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

__all__ = ["LoraLinear", "PlainLora", "leading_keys_values_of", "plain_lora"]


@dataclass(frozen=True)
class PlainLora:
    """What y = base(x) + scaling * dropout(x) A^T B^T is made of. a [r, I], b [O, r]."""

    a: Tensor
    b: Tensor
    dropout: nn.Module
    scaling: float


def plain_lora(layer: Any) -> PlainLora | None:
    """The parts of a LoraLinear whose one active adapter is plain LoRA: not merged, disabled, DoRA or with a bias.

    PEFT keeps them in dictionaries by adapter and has no function that hands them out.
    """
    names = layer.active_adapters
    name = names[0] if len(names) == 1 else None
    if name not in layer.lora_A or layer.disable_adapters or layer.merged or layer.lora_variant.get(name):
        return None
    a, b = layer.lora_A[name], layer.lora_B[name]
    if a.bias is not None or b.bias is not None:
        return None
    return PlainLora(a.weight, b.weight, layer.lora_dropout[name], layer.scaling[name])


def leading_keys_values_of(prefix_cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [1, K, P, D] of each layer in the cache that prefix tuning's get_prompt gives.

    PEFT documents that it is what a model takes as its cache, not how to read it.
    """
    # An encoder-decoder model takes them in the decoder's own attention.
    layers = getattr(prefix_cache, "self_attention_cache", prefix_cache).layers
    return [(layer.keys, layer.values) for layer in layers]
