"""Families that call transformers' attention interface: packed rows need no change of their layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuralchat.data.packing import PackedBatch
from neuralchat.models.attention.pages import PAGED_ATTENTION, register_pages
from neuralchat.models.attention.segments import SEGMENT_ATTENTION, register, row_mask
from neuralchat.models.compat.transformers import attention_of, calls_attention_interface, keeps_a_state
from neuralchat.models.families.architecture import positions_hang_on_length

# Kinds of layers, by their names in configurations, whose attention is computed inside segments.
ATTENDING_LAYERS = {"full_attention", "sliding_attention"}


def only_attends(base: Any) -> bool:
    """Whether all that a causal model does with neighbouring tokens is attention through the interface."""
    kinds = set(getattr(base.config, "layer_types", None) or ())
    return kinds <= ATTENDING_LAYERS and not keeps_a_state(base) and calls_attention_interface(base)


def take_page_attention(base: Any) -> bool:
    """Let a causal model attend to keys and values in pages; False, with the model unchanged, where it cannot."""
    if not only_attends(base) or positions_hang_on_length(base.config):
        return False
    register_pages()
    base.set_attn_implementation(PAGED_ATTENTION)
    return attention_of(base) == PAGED_ATTENTION


def take_segment_attention(base: Any) -> bool:
    """Let a causal model attend inside segments; False, with the model unchanged, where it cannot."""
    if not only_attends(base):
        return False
    register()
    base.set_attn_implementation(SEGMENT_ATTENTION)
    return attention_of(base) == SEGMENT_ATTENTION


def packed_states(
    base: Any, embedded: Tensor, batch: PackedBatch, leading: Sequence[tuple[Tensor, Tensor]] | None
) -> Tensor:
    """Last hidden states [1, T, E] of a causal model on embeddings [1, T, E] of a row of T tokens.

    leading: keys and values [1, K, P, D] of each layer that all tokens of the row see first.
    """
    return base.base_model(
        inputs_embeds=embedded,
        position_ids=torch.from_numpy(batch.position_ids)[None].to(embedded.device),
        attention_mask=row_mask(batch.segments, leading, embedded.device),
        segments=batch.segments,
        leading_keys_values=leading,
        use_cache=False,
    ).last_hidden_state
