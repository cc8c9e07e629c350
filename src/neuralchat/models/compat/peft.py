"""Internal names of PEFT, each with the reason why no public one does."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

# The LoRA layer around nn.Linear, whose class is taken over; PEFT exports configurations and models, not layers.
# LoraLayer and LoraEmbedding: the layers that a GGUF adapter is written from, by kind.
from peft.tuners.lora.layer import Embedding as LoraEmbedding
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer

# What refuses layers whose weights a kernel of Mamba reads by itself.
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba as check_target

# The layers that PEFT gives LoRA by itself, by model type.
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS

# What turns the layers of a mixture of experts into its parameters when an adapter is put in.
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = [
    "LORA_TARGETS",
    "Conv1D",
    "LoraEmbedding",
    "LoraLayer",
    "LoraLinear",
    "PlainLora",
    "leading_keys_values_of",
    "name_parameters",
    "plain_lora",
    "plain_lora_of",
    "refuses",
    "stands_for_experts",
    "targeted_parameters",
]


def targeted_parameters(config: Any, model: Any) -> list[str]:
    """The parameters outside of linear layers (experts) that a LoraConfig would give LoRA in this model.

    PEFT derives them from the names of layers when it puts the adapter in, and tells nobody. Raises ValueError where
    they cannot be told apart.
    """
    converted = copy.deepcopy(config)
    name_parameters(converted, model)
    return sorted(converted.target_parameters or ())


def name_parameters(config: Any, model: Any) -> None:
    """Write into a LoraConfig, in the place of names of layers, the parameters that PEFT would take them for.

    PEFT does it when it puts the adapter in, too late to leave one of them out. Done twice it changes nothing more.
    """
    convert_peft_config_for_transformers(config, model, None)


def refuses(config: Any, model: Any, name: str) -> bool:
    """Whether PEFT refuses LoRA for a layer of this name in this model."""
    one = copy.deepcopy(config)
    one.target_modules = {name}
    try:
        check_target(one, model, name)
    except ValueError:
        return True
    return False


def stands_for_experts(config: Any, model: Any, name: str) -> bool:
    """Whether PEFT takes the name of a linear layer for that of experts, which are parameters in this model."""
    one = copy.deepcopy(config)
    one.target_modules = {name}
    try:
        return bool(targeted_parameters(one, model))
    except ValueError:
        return True


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
    if len(names) != 1 or layer.disable_adapters or layer.merged:
        return None
    return plain_lora_of(layer, names[0])


def plain_lora_of(layer: Any, name: str) -> PlainLora | None:
    """The parts of one adapter of a LoraLinear, switched on or not; None where it has none here, or is not plain."""
    if name not in layer.lora_A or layer.lora_variant.get(name):
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
