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
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.models.t5.modeling_t5 import eager_attention_forward

from neuralchat.data.seq2seq_packing import PackedPairs, Ranges

IMPLEMENTATION = "neuralchat_pairs"


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
class PairRows:
    """Where the examples lie, and the keys and values [1, H, P, D] of each decoder layer that lead all targets."""

    source_ranges: Ranges
    target_ranges: Ranges
    leading: Sequence[tuple[Tensor, Tensor]] | None = None


def take_segments(model: Any) -> None:
    AttentionInterface.register(IMPLEMENTATION, pair_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    model.set_attn_implementation(IMPLEMENTATION)


def pair_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float | None = None, dropout: float = 0.0, position_bias: Any = None, pair_rows: PairRows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Self-attention of the encoder or decoder, or cross-attention, on packed rows; else transformers' own."""
    if pair_rows is None:
        return eager_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, position_bias=position_bias,
            **kwargs,
        )  # fmt: skip
    causal, crosses = bool(module.is_causal), bool(module.is_decoder) and not module.is_causal
    queries = pair_rows.target_ranges if module.is_decoder else pair_rows.source_ranges
    keys = pair_rows.source_ranges if crosses or not module.is_decoder else pair_rows.target_ranges
    leading = pair_rows.leading[int(module.layer_idx)] if causal and pair_rows.leading else None  # type: ignore[arg-type]
    outputs = []
    for (start, end), (key_start, key_end) in zip(queries, keys, strict=True):
        own_keys, own_values = key[:, :, key_start:key_end], value[:, :, key_start:key_end]
        if leading is not None:
            own_keys = torch.cat([leading[0].to(key.dtype), own_keys], dim=2)
            own_values = torch.cat([leading[1].to(value.dtype), own_values], dim=2)
        bias: Any = None if crosses else position_bias.between(end - start, own_keys.shape[2])
        if causal:
            hidden = torch.ones(end - start, own_keys.shape[2], dtype=torch.bool, device=query.device)
            bias = bias.masked_fill(hidden.triu(own_keys.shape[2] - (end - start) + 1), float("-inf"))
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, start:end], own_keys, own_values, attn_mask=None if bias is None else bias.to(query.dtype),
                dropout_p=dropout, scale=scaling,
            )
        )  # fmt: skip
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def distance_bias(stack: Any, reach: int) -> DistanceBias:
    """The relative biases of a T5Stack for distances below `reach`, by its first layer's own buckets."""
    attention = stack.block[0].layer[0].SelfAttention
    distances = torch.arange(1 - reach, reach, device=attention.relative_attention_bias.weight.device)
    buckets = attention._relative_position_bucket(
        distances, bidirectional=not attention.is_decoder, num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )  # fmt: skip
    return DistanceBias(attention.relative_attention_bias(buckets).t())


def longest(spans: Ranges) -> int:
    return max(end - start for start, end in spans)


def stack_states(stack: Any, embedded: Tensor, rows: PairRows, encoded: Tensor | None = None) -> Tensor:
    """Last hidden states [1, T, E] of a T5Stack; `encoded` are the encoder's, for a decoder."""
    spans = rows.source_ranges if encoded is None else rows.target_ranges
    leading = rows.leading[0][0].shape[2] if rows.leading and encoded is not None else 0
    bias = distance_bias(stack, longest(spans) + leading)
    hidden = stack.dropout(embedded)
    for block in stack.block:
        # Cross-attention has no bias; a number there keeps T5 from making a whole array of zeros.
        hidden = block(hidden, None, bias, encoded, None, 0.0, pair_rows=rows)[0]
    return stack.dropout(stack.final_layer_norm(hidden))


def pair_states(
    model: Any, sources: Tensor, decoder_inputs: Tensor, batch: PackedPairs,
    leading: Sequence[tuple[Tensor, Tensor]] | None,
) -> Tensor:  # fmt: skip
    """Decoder states [1, N, E] that the head takes, from source and decoder embeddings [1, S, E] and [1, N, E]."""
    rows = PairRows(batch.source_ranges, batch.target_ranges, leading)
    encoded = stack_states(model.encoder, sources, rows)
    states = stack_states(model.decoder, decoder_inputs, rows, encoded)
    return states * model.model_dim**-0.5 if model.config.scale_decoder_outputs else states
