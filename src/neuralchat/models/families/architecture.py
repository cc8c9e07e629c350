"""The properties of an architecture that reach everywhere: whether it encodes a source first, and its positions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any


def is_encoder_decoder(config: Any) -> bool:
    """True for sequence-to-sequence models (T5), False for causal ones. `config`: transformers' configuration."""
    return bool(config.is_encoder_decoder)


def position_limit(config: Any) -> int | None:
    """The most tokens, virtual ones included, that the model has positions for; None where positions are not bounded.

    Bounded are learned positions and whatever else stands in a table with a row for each position: one token more and
    the model fails. The max_position_embeddings of rotary positions is what the model was trained on, no limit.
    `config`: transformers' configuration. No weights are loaded.
    """
    # ALiBi as a table of so many keys, which is made anew at each pass (MPT).
    if getattr(getattr(config, "attn_config", None), "alibi", False):
        return int(config.max_seq_len)
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    shapes = set(table_shapes(config))
    # Only a table can bound positions, and most models have none of that size.
    if not any(limit <= size <= limit + 8 for _, shape in shapes for size in shape):
        return None
    longer = copy.deepcopy(config)
    longer.max_position_embeddings = limit + 1
    return limit if shapes != set(table_shapes(longer)) else None


def positions_hang_on_length(config: Any) -> bool:
    """Whether rotary positions turn in another way in longer texts, so that kept keys would not fit later ones."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # Some families have different ones by kind of layer.
    kinds = [found, *(value for value in found.values() if isinstance(value, dict))]
    names = [str(kind.get("rope_type", kind.get("type", ""))) for kind in kinds]
    return any("dynamic" in name or name == "longrope" for name in names)


def table_shapes(config: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every embedding table and buffer of a model of this configuration, built without memory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    # Code that comes with a checkpoint is not run for this.
    if not type(config).__module__.startswith("transformers."):
        return
    kind: Any = AutoModelForSeq2SeqLM if is_encoder_decoder(config) else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = kind.from_config(copy.deepcopy(config))
    # A configuration that no model can be made of; who loads it tells why.
    except Exception:
        return
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding):
            yield name, tuple(module.weight.shape)
        for own, buffer in module.named_buffers(recurse=False):
            yield f"{name}.{own}", tuple(buffer.shape)
