"""Attention over keys and values that are kept in pages, for a row of tokens of many texts at once.

Entered through transformers' attention interface. Each layer writes the keys and values of the row's tokens to their
places, then each text's tokens attend to all that is kept of it. Single tokens go through the compiled kernel
(kernels/decoder.c), longer parts through that of packed rows (segments.py), with what was kept as keys that lead.

Shapes: T tokens of the row, C texts, H query heads, K key/value heads, D head size. query [1, H, T, D];
key, value [1, K, T, D]; pages of a layer [pages, K, PAGE, D]; output [1, T, H, D].
"""

from __future__ import annotations

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

    kept: tokens of each text that are kept once the row is, its last ones being those of the row; `lengths` is the
    same, int32 [C]. tables: int32 [C, most pages of a text], the pages of each text in their order. pages, places:
    int64 [T], where keys and values of each token of the row are kept. single: the first so many texts have one token
    in the row.
    """

    memory: PagedMemory
    starts: Sequence[int]
    kept: Sequence[int]
    lengths: Tensor
    tables: Tensor
    pages: Tensor
    places: Tensor
    single: int

    def part(self, i: int) -> slice:
        return slice(self.starts[i], self.starts[i + 1])


@dataclass
class PagedMemory:
    """Keys and values of every layer, which are made when a layer first has some. `pages`: how many of each layer.

    What was never written takes no memory on the CPU.
    """

    pages: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def of_layer(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Pages for keys [1, K, T, D] and values of such sizes."""
        if layer not in self.keys:
            # Zeros, so that what nobody has written yet is a number in any case.
            for kept, x in ((self.keys, key), (self.values, value)):
                kept[layer] = zeros_until_written(x, (self.pages, x.shape[1], PAGE, x.shape[3]))
        return self.keys[layer], self.values[layer]


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
    keys, values = row.memory.of_layer(int(module.layer_idx), key, value)  # type: ignore[arg-type]
    keys[row.pages, :, row.places] = key[0].transpose(0, 1)
    values[row.pages, :, row.places] = value[0].transpose(0, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    outputs = []
    done = 0
    if row.single and sees_all_plainly(module, query, value, row, kwargs):
        done = row.single
        outputs.append(single_tokens(query[0, :, :done].transpose(0, 1), keys, values, row, scale)[None])
    for i in range(done, len(row.starts) - 1):
        part = row.part(i)
        own, kept = query[:, :, part], (kept_of(keys, row, i), kept_of(values, row, i))
        kwargs["segments"] = (Segment(0, 0, 0, part.stop - part.start),)
        outputs.append(segment_attention(module, own, kept[0], kept[1], None, scaling=scaling, **kwargs)[0])
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], None


def kept_of(pages: Tensor, row: PagedRow, i: int) -> Tensor:
    """What is kept of text i, [1, K, its tokens, D]."""
    length = row.kept[i]
    # Heads first, so that it is copied once.
    own = pages.transpose(0, 1)[:, row.tables[i, : -(-length // PAGE)]]
    return own.flatten(1, 2)[None, :, :length]


def sees_all_plainly(
    module: torch.nn.Module, query: Tensor, value: Tensor, row: PagedRow, asked: dict[str, Any]
) -> bool:
    """Whether single tokens attend to all that is kept of their texts, by their scores alone."""
    window = asked.get("sliding_window", NOT_GIVEN)
    if window == NOT_GIVEN:
        window = sliding_window_of(module)
    if window is not None and max(row.kept[: row.single]) > window:
        return False
    more = any(asked.get(name) is not None for name in ("softcap", "s_aux", "alibi_slopes"))
    return not more and not asked.get("dropout") and value.shape[3] == query.shape[3] and takes_kernels(module)


def single_tokens(query: Tensor, keys: Tensor, values: Tensor, row: PagedRow, scale: float) -> Tensor:
    """Attention [C, H, D] of one query [H, D] of each of the first C texts."""
    kernel = paged_kernel_for(keys)
    if kernel is not None:
        return kernel.attention(query, keys, values, row.tables, row.lengths, scale)
    outputs = []
    for i in range(len(query)):
        own, kept = query[i][None, :, None], (kept_of(keys, row, i), kept_of(values, row, i))
        attended = torch.nn.functional.scaled_dot_product_attention(own, *kept, scale=scale, enable_gqa=True)
        outputs.append(attended[0, :, 0])
    return torch.stack(outputs)
