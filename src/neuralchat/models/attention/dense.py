"""Attention by scores that are written out: segment by segment, with a small mask each, on any device.

It computes what the kernels do not: sliding windows, dropout, capped scores; and plain attention with caps or sinks
where nothing is packed, for which torch's scaled_dot_product_attention has no argument.

Shapes: T queries, S keys, P leading keys without queries, H query heads, K key/value heads (H a multiple of K), D head
size. query [B, H, T, D]; key, value [B, K, S, D]; output [B, T, H, D].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neuralchat.data.packing import Segment


def dense_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Sequence[Segment],
    scale: float,
    dropout: float = 0.0,
    window: int | None = None,
    slopes: Tensor | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Output of one row [1, T, H, D] of keys [1, K, P + T, D]. slopes: those of ALiBi, fp32 [H]; sinks: scores [H]."""
    leading = key.shape[2] - query.shape[2]
    outputs = []
    for s in segments:
        shared = leading + s.prefix_end - s.prefix_start
        parts = (slice(0, leading), *(slice(leading + a, leading + b) for a, b in segment_keys(s)))
        keys, values = (torch.cat([x[:, :, part] for part in parts], dim=2) for x in (key, value))
        own = torch.arange(shared, shared + s.end - s.start, device=query.device)
        distance = own[:, None] - torch.arange(keys.shape[2], device=query.device)[None, :]
        allowed = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        bias = allowed
        if slopes is not None:
            bias = (-slopes[:, None, None] * distance).masked_fill(~allowed, float("-inf")).to(query.dtype)
        queries = query[:, :, s.start : s.end]
        if softcap is not None or sinks is not None:
            outputs.append(scored_attention(queries, keys, values, bias, scale, dropout, softcap, sinks))
            continue
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=bias, dropout_p=dropout, scale=scale, enable_gqa=True
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2)


def segment_keys(s: Segment) -> tuple[tuple[int, int], tuple[int, int]]:
    return (s.prefix_start, s.prefix_end), (s.start, s.end)


def scored_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Output [B, H, T, D]. mask: bool, True where a query sees a key, or numbers to add to the scores."""
    repeats = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(repeats, dim=1).transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        # Not minus infinity: a query of padding may see nothing, and its numbers must stay numbers.
        least = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, least) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        sink = sinks[None, :, None, None].expand(*scores.shape[:3], 1).to(scores.dtype)
        scores = torch.cat([scores, sink], dim=3)
    weights = torch.softmax(scores, dim=3, dtype=torch.float32).to(value.dtype)[..., : key.shape[2]]
    weights = torch.nn.functional.dropout(weights, p=dropout, training=dropout > 0)
    return weights @ value.repeat_interleave(repeats, dim=1)


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
    causal: bool,
) -> Tensor:
    """Attention that is not packed, as transformers asks for it: without a mask a row of queries is causal."""
    queries, keys = query.shape[2], key.shape[2]
    if mask is None and causal and queries > 1:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return scored_attention(query, key, value, mask, scale, dropout, softcap, sinks).transpose(1, 2)
