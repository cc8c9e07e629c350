"""Families that call transformers' attention interface: packed rows need no change of their layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuralchat.data.packing import PackedBatch
from neuralchat.models.attention.segments import SEGMENT_ATTENTION, no_mask, register


def take_segment_attention(base: Any) -> bool:
    """Let a causal model attend inside segments; False where its layers do not call the interface."""
    if not base.is_backend_compatible():
        return False
    register()
    base.set_attn_implementation(SEGMENT_ATTENTION)
    return True


def packed_states(
    base: Any, embedded: Tensor, batch: PackedBatch, leading: Sequence[tuple[Tensor, Tensor]] | None
) -> Tensor:
    """Last hidden states [1, T, E] of a causal model on embeddings [1, T, E] of a row of T tokens.

    leading: keys and values [1, K, P, D] of each layer that all tokens of the row see first.
    """
    return base.base_model(
        inputs_embeds=embedded,
        position_ids=torch.from_numpy(batch.position_ids)[None].to(embedded.device),
        attention_mask=no_mask(embedded.device),
        segments=batch.segments,
        leading_keys_values=leading,
        use_cache=False,
    ).last_hidden_state
