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
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from neuralchat.data.packing import Segment

# Of queries and of keys alike, torch's default.
BLOCK_TOKENS = 128
QUERIES_AT_ONCE = 8 * BLOCK_TOKENS
# torch's kernels take no smaller heads; zeros beside them change no score.
MIN_HEAD_SIZE = 16
# The kernel it has for few queries refuses rows of some lengths.
KERNEL_OPTIONS = {"BACKEND": "TRITON"}


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

    def sees(_batch: Tensor | None, _head: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
        distance, visible = place_of_key(tables, leading, query, key)
        return visible if window is None else visible & (distance < window)

    seen, whole = visible_blocks(sees, tokens, leading + tokens, device)
    return BlockMask.from_kv_blocks(
        *blocks_of_rows(seen & ~whole),
        *blocks_of_rows(whole),
        BLOCK_SIZE=BLOCK_TOKENS,
        mask_mod=sees,
        seq_lengths=(tokens, leading + tokens),
    )


def visible_blocks(sees: Callable[..., Tensor], queries: int, keys: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of which blocks of queries and keys some pair sees, and of which all: bool [query blocks, key blocks] each.

    A few blocks of queries at a time: torch's create_block_mask holds queries x keys numbers of 8 bytes several times.
    """
    key = torch.arange(keys, device=device)
    seen, whole = [], []
    for first in range(0, queries, QUERIES_AT_ONCE):
        query = torch.arange(first, min(first + QUERIES_AT_ONCE, queries), device=device)
        visible = sees(None, None, query[:, None], key)
        padding = (0, -keys % BLOCK_TOKENS, 0, -len(query) % BLOCK_TOKENS)
        blocks = pad(visible, padding).unflatten(1, (-1, BLOCK_TOKENS)).unflatten(0, (-1, BLOCK_TOKENS))
        seen.append(blocks.any(3).any(1))
        whole.append(blocks.all(3).all(1))
    return torch.cat(seen), torch.cat(whole)


def blocks_of_rows(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many key blocks are chosen for each query block, int32 [1, 1, Q], and which, these first: [1, 1, Q, K]."""
    order = torch.argsort(chosen.int(), dim=1, descending=True, stable=True)
    return chosen.sum(1).int()[None, None], order.int()[None, None]


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
    if not query.is_cuda:
        output: Any = flex_attention(query, key, value, score_mod=bias, block_mask=mask, scale=scale, enable_gqa=True)
        return output.transpose(1, 2)
    size = query.shape[-1]
    query, key, value = (pad(heads, (0, max(0, MIN_HEAD_SIZE - size))) for heads in (query, key, value))
    output = compiled_flex_attention()(
        query, key, value, score_mod=bias, block_mask=mask, scale=scale, enable_gqa=True, kernel_options=KERNEL_OPTIONS
    )
    return output[..., :size].transpose(1, 2)
