"""Attention inside segments on GPUs, by torch's flex attention: blocks of the row that nobody sees are skipped.

On a GPU the call is compiled by torch once for each shape of row; on CPU the same mask runs uncompiled, which is how it
is tested (docs: https://docs.pytorch.org/docs/stable/nn.attention.flex_attention.html).

Shapes: T tokens of the row, P leading keys without queries, H query heads, K key/value heads, D head size.
query [1, H, T, D]; key, value [1, K, P + T, D]; output [1, T, H, D].
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from neuralchat.data.packing import Segment


@functools.lru_cache(maxsize=8)
def token_tables(segments: tuple[Segment, ...], device: torch.device) -> tuple[Tensor, ...]:
    """For each token of the row: its segment's prefix_start, prefix_end and start, int64 [T] each."""
    columns = [(s.prefix_start, s.prefix_end, s.start) for s in segments for _ in range(s.start, s.end)]
    return tuple(torch.tensor(column, device=device) for column in zip(*columns, strict=True))


def place_of_key(tables: tuple[Tensor, ...], leading: int, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """(how many keys lie between key and query among those the query sees, whether the query sees it)."""
    prefix_start, prefix_end, start = (table[query] for table in tables)
    token = key - leading
    own = (token >= start) & (token <= query)
    in_prefix = (token >= prefix_start) & (token < prefix_end)
    number_of_query = leading + prefix_end - prefix_start + query - start
    number_of_key = torch.where(
        key < leading, key, torch.where(own, number_of_query - (query - token), leading + token - prefix_start)
    )
    return number_of_query - number_of_key, own | in_prefix | (key < leading)


@functools.lru_cache(maxsize=8)
def block_mask(segments: tuple[Segment, ...], leading: int, window: int | None, device: torch.device) -> BlockMask:
    tables = token_tables(segments, device)
    tokens = len(tables[0])

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance, visible = place_of_key(tables, leading, query, key)
        return visible if window is None else visible & (distance < window)

    return create_block_mask(sees, None, None, tokens, leading + tokens, device=device)


@functools.cache
def compiled_flex_attention() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def flex_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: tuple[Segment, ...],
    scale: float,
    window: int | None,
    slopes: Tensor | None,
) -> Tensor:
    leading = key.shape[2] - query.shape[2]
    mask = block_mask(segments, leading, window, query.device)
    bias: Callable[..., Tensor] | None = None
    if slopes is not None:
        tables, factors = token_tables(segments, query.device), slopes.to(query.device)

        def add_alibi(score: Tensor, _batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score - factors[head] * place_of_key(tables, leading, query, key)[0]

        bias = add_alibi
    run: Any = compiled_flex_attention() if query.is_cuda else flex_attention
    output = run(query, key, value, score_mod=bias, block_mask=mask, scale=scale, enable_gqa=True)
    return output.transpose(1, 2)
