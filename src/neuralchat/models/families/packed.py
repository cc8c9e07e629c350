"""How each family takes packed rows: by transformers' attention interface, or by a module of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuralchat.data.packing import PackedBatch
from neuralchat.models.attention import segments as segment_attention
from neuralchat.models.families import mpt as mpt_segments
from neuralchat.models.families import t5 as t5_segments


def take_segments(base: Any) -> bool:
    """Make a base model ready for packed rows; False where its family cannot take them."""
    if base.config.model_type == "mpt":
        mpt_segments.take_segments(base)
        return True
    if base.config.is_encoder_decoder:
        if base.config.model_type != "t5":
            return False
        t5_segments.take_segments(base)
        return True
    if not base._supports_attention_backend:
        return False
    segment_attention.register()
    base.set_attn_implementation(segment_attention.IMPLEMENTATION)
    return True


def row_states(
    base: Any, embedded: Tensor, batch: PackedBatch, leading: Sequence[tuple[Tensor, Tensor]] | None
) -> Tensor:
    """Last hidden states [1, T, E] of a causal model on embeddings [1, T, E] of a row."""
    if base.config.model_type == "mpt":
        return mpt_segments.mpt_states(base.base_model, embedded, batch.segments, leading)
    return base.base_model(
        inputs_embeds=embedded,
        position_ids=torch.from_numpy(batch.position_ids)[None].to(embedded.device),
        attention_mask=segment_attention.no_mask(embedded.device),
        segments=batch.segments,
        leading_keys_values=leading,
        use_cache=False,
    ).last_hidden_state
