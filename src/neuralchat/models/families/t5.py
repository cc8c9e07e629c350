"""T5 in packed rows: attention inside each source and target, relative positions counted inside them.

Entered through transformers' attention interface. T5 would compute its relative bias for the whole row; here its stacks
are run with a table of biases by distance instead, from which each segment takes its own.

Shapes: S source tokens, N target tokens, T either, E hidden size, H heads, D head size, P leading keys (prefix tuning).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from neuralchat.data.seq2seq_packing import PackedSeq2Seq, Ranges
from neuralchat.models.compat.transformers_models import t5_eager_attention

T5_ATTENTION = "neuralchat_t5"


@dataclass(frozen=True)
class DistanceBias:
    """Biases [H, 2 R - 1] of keys at distances key - query from -(R - 1) to R - 1."""

    table: Tensor

    def between(self, queries: int, keys: int) -> Tensor:
        """[1, H, queries, keys], the last query standing at the last key."""
        middle = self.table.shape[1] // 2
        query = torch.arange(keys - queries, keys, device=self.table.device)
        distance = torch.arange(keys, device=self.table.device)[None, :] - query[:, None]
        return self.table[:, distance + middle][None]


@dataclass(frozen=True)
class T5Rows:
    """Where the examples lie, and the keys and values [1, H, P, D] of each decoder layer that lead all targets."""

    source_ranges: Ranges
    target_ranges: Ranges
    leading: Sequence[tuple[Tensor, Tensor]] | None = None


def take_t5_attention(base: Any) -> bool:
    AttentionInterface.register(T5_ATTENTION, t5_attention)
    AttentionMaskInterface.register(T5_ATTENTION, AttentionMaskInterface()["eager"])
    base.set_attn_implementation(T5_ATTENTION)
    return True


def t5_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Any = None,
    t5_rows: T5Rows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Self-attention of the encoder or decoder, or cross-attention, on packed rows; else transformers' own."""
    if t5_rows is None:
        kwargs |= {"scaling": scaling, "dropout": dropout, "position_bias": position_bias}
        return t5_eager_attention(module, query, key, value, attention_mask, **kwargs)
    causal, crosses = bool(module.is_causal), bool(module.is_decoder) and not module.is_causal
    query_ranges = t5_rows.target_ranges if module.is_decoder else t5_rows.source_ranges
    key_ranges = t5_rows.source_ranges if crosses or not module.is_decoder else t5_rows.target_ranges
    leading = t5_rows.leading[int(module.layer_idx)] if causal and t5_rows.leading else None  # type: ignore[arg-type]
    outputs = []
    for (start, end), (key_start, key_end) in zip(query_ranges, key_ranges, strict=True):
        keys, values = key[:, :, key_start:key_end], value[:, :, key_start:key_end]
        if leading is not None:
            keys = torch.cat([leading[0].to(key.dtype), keys], dim=2)
            values = torch.cat([leading[1].to(value.dtype), values], dim=2)
        bias = None if crosses else own_bias(position_bias, end - start, keys.shape[2], causal=causal).to(query.dtype)
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, start:end], keys, values, attn_mask=bias, dropout_p=dropout, scale=scaling
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def own_bias(by_distance: DistanceBias, queries: int, keys: int, *, causal: bool) -> Tensor:
    """Bias [1, H, queries, keys] of one example, minus infinity for the keys that a causal query must not see."""
    bias = by_distance.between(queries, keys)
    if not causal:
        return bias
    later = torch.ones(queries, keys, dtype=torch.bool, device=bias.device).triu(keys - queries + 1)
    return bias.masked_fill(later, float("-inf"))


def distance_bias(stack: Any, reach: int) -> DistanceBias:
    """The relative biases of a T5Stack for distances below `reach`: those of one query amid 2 * reach - 1 keys."""
    attention = stack.block[0].layer[0].SelfAttention
    return DistanceBias(attention.compute_bias(1, 2 * reach - 1, past_seen_tokens=reach - 1)[0, :, 0])


def longest(spans: Ranges) -> int:
    return max(end - start for start, end in spans)


def stack_states(stack: Any, embedded: Tensor, rows: T5Rows, encoded: Tensor | None = None) -> Tensor:
    """Last hidden states [1, T, E] of a T5Stack; `encoded` are the encoder's, for a decoder."""
    spans = rows.source_ranges if encoded is None else rows.target_ranges
    leading = rows.leading[0][0].shape[2] if rows.leading and encoded is not None else 0
    bias = distance_bias(stack, longest(spans) + leading)
    hidden = stack.dropout(embedded)
    for block in stack.block:
        hidden = block(
            hidden,
            position_bias=bias,
            encoder_hidden_states=encoded,
            # Cross-attention has no bias; a number here keeps T5 from making a whole array of zeros.
            encoder_decoder_position_bias=0.0,
            t5_rows=rows,
        )[0]
    return stack.dropout(stack.final_layer_norm(hidden))


def packed_t5_states(
    base: Any,
    sources: Tensor,
    decoder_inputs: Tensor,
    batch: PackedSeq2Seq,
    leading: Sequence[tuple[Tensor, Tensor]] | None,
) -> Tensor:
    """Decoder states [1, N, E] that the head takes, from source and decoder embeddings [1, S, E] and [1, N, E]."""
    rows = T5Rows(batch.source_ranges, batch.target_ranges, leading)
    encoded = stack_states(base.encoder, sources, rows)
    states = stack_states(base.decoder, decoder_inputs, rows, encoded)
    return states * base.model_dim**-0.5 if base.config.scale_decoder_outputs else states
