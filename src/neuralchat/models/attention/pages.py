"""Attention over keys and values that are kept in pages, for a row of tokens of many texts at once.

Entered through transformers' attention interface. Each layer writes the keys and values of the row's tokens to their
places, then each text's tokens attend to all that is kept of it: in the compiled kernel (kernels/paged_attention.h),
or, where a layer asks for more than that or there is no compiler, text by text through that of packed rows
(segments.py), with what was kept as keys that lead.

Shapes: T tokens of the row, C texts, H query heads, K key/value heads, D head size. query [1, H, T, D];
key, value [1, K, T, D]; pages of a layer: keys [pages, K, D, PAGE], values [pages, K, PAGE, D]; output [1, T, H, D].
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from neuralchat.data.packing import Segment
from neuralchat.models.attention.segments import NOT_GIVEN, mask_with, segment_attention, sliding_window_of
from neuralchat.models.kernels.compiled import takes_kernels
from neuralchat.models.kernels.decoder import PAGE, paged_kernel_for

PAGED_ATTENTION = "neuralchat_pages"
# The attribute by which a mask carries the row that it stands for.
PAGED_ROW = "paged_row"


@dataclass(frozen=True)
class PagedRow:
    """Tokens [starts[i], starts[i + 1]) of the row are of text i.

    starts: int32 [C + 1]. kept: int32 [C], tokens of each text that are kept once the row is, its last ones being those
    of the row. tables: int32 [C, most pages of a text], the pages of each text in their order. pages, places: int64
    [T], where keys and values of each token of the row are kept.
    """

    memory: PagedMemory
    starts: Tensor
    kept: Tensor
    tables: Tensor
    pages: Tensor
    places: Tensor

    @functools.cached_property
    def longest(self) -> int:
        return int(self.kept.max())


@dataclass
class PagedMemory:
    """Keys and values of every layer, which are made when a layer first has some. `pages`: how many of each layer.

    What was never written takes no memory on the CPU. Keys of a page are transposed, as the kernel multiplies by them.
    """

    pages: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def of_layer(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Pages for keys [1, K, T, D] and values of such sizes."""
        if layer not in self.keys:
            # Zeros, so that what nobody has written yet is a number in any case.
            key_page, value_page = (key.shape[1], key.shape[3], PAGE), (value.shape[1], PAGE, value.shape[3])
            self.keys[layer] = zeros_until_written(key, (self.pages, *key_page))
            self.values[layer] = zeros_until_written(value, (self.pages, *value_page))
        return self.keys[layer], self.values[layer]

    def write(self, layer: int, key: Tensor, value: Tensor, pages: Tensor, places: Tensor) -> None:
        """Keys and values [1, K, T, D] to these pages and places in them, int64 [T]."""
        keys, values = self.of_layer(layer, key, value)
        keys[pages, :, :, places] = key[0].transpose(0, 1).to(keys.dtype)
        values[pages, :, places] = value[0].transpose(0, 1).to(values.dtype)

    def kept(self, layer: int, pages: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The keys and values [1, K, `length`, D] of a text in these pages."""
        used = pages[: -(-length // PAGE)]
        # Heads first, so that each is copied once.
        keys = self.keys[layer].transpose(0, 1)[:, used].transpose(2, 3).flatten(1, 2).contiguous()
        values = self.values[layer].transpose(0, 1)[:, used].flatten(1, 2)
        return keys[None, :, :length], values[None, :, :length]


def zeros_until_written(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros, whose memory the system gives where they are first written; torch would write all of them at once.

    Elsewhere than on the CPU plain zeros.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    size = prod(shape) * like.element_size()
    # Private: a forked child that writes has pages of its own.
    given = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(given, dtype=like.dtype).view(*shape)


def register_pages() -> None:
    """Register PAGED_ATTENTION with transformers; called without a row, it computes transformers' own SDPA."""
    AttentionInterface.register(PAGED_ATTENTION, page_attention)
    AttentionMaskInterface.register(PAGED_ATTENTION, AttentionMaskInterface()["sdpa"])


def paged_mask(row: PagedRow, device: torch.device) -> Tensor:
    """What to pass as attention_mask, see segments.row_mask."""
    return mask_with(PAGED_ROW, row, device)


def page_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`kwargs`: those of segments.segment_attention."""
    row: PagedRow | None = getattr(attention_mask, PAGED_ROW, None)
    if row is None:
        return segment_attention(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    row.memory.write(layer, key, value, row.pages, row.places)
    kernel = paged_kernel_for(row.memory.keys[layer]) if sees_all_plainly(module, query, value, row, kwargs) else None
    if kernel is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        pages = row.memory.keys[layer], row.memory.values[layer]
        texts = row.tables, row.starts, row.kept
        return kernel.attention(query[0].transpose(0, 1), *pages, *texts, scale)[None], None
    outputs = []
    for i, (start, end, length) in enumerate(zip(row.starts[:-1], row.starts[1:], row.kept, strict=True)):
        own, kept = query[:, :, int(start) : int(end)], row.memory.kept(layer, row.tables[i], int(length))
        kwargs["segments"] = (Segment(0, 0, 0, own.shape[2]),)
        outputs.append(segment_attention(module, own, *kept, None, scaling=scaling, **kwargs)[0])
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], None


def sees_all_plainly(
    module: torch.nn.Module, query: Tensor, value: Tensor, row: PagedRow, asked: dict[str, Any]
) -> bool:
    """Whether tokens attend to all that is kept of their texts, by their scores alone."""
    window = asked.get("sliding_window", NOT_GIVEN)
    if window == NOT_GIVEN:
        window = sliding_window_of(module)
    if window is not None and row.longest > window:
        return False
    more = any(asked.get(name) is not None for name in ("softcap", "s_aux", "alibi_slopes"))
    return not more and not asked.get("dropout") and value.shape[3] == query.shape[3] and takes_kernels(module)
