"""The next tokens of many texts through a model in one pass: ids in, logits of the last token of each text out.

Shapes: T tokens of the row, C texts, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralchat.models.attention.pages import PagedMemory, PagedRow, paged_mask
from neuralchat.models.kernels.decoder import PAGE
from neuralchat.models.layers.native_decoder import MOST_NATIVE_ROWS, NativeDecoder, NotTakenError, RowArrays
from neuralchat.models.losses.head import head_of


@dataclass(frozen=True)
class Chunk:
    """Tokens `ids` of a text, which come after `before` tokens whose keys and values lie in `blocks`, as theirs will.

    `wanted`: whether what follows the last of them is asked for. `virtual`: embeddings [P, E] that stand for the ids
    -1, -2, ...
    """

    ids: Sequence[int]
    before: int
    blocks: Sequence[int]
    wanted: bool = True
    virtual: Tensor | None = None

    @property
    def end(self) -> int:
        return self.before + len(self.ids)


def row_arrays(chunks: Sequence[Chunk]) -> RowArrays:
    starts = np.cumsum([0, *(len(chunk.ids) for chunk in chunks)], dtype=np.int32)
    tables = np.zeros((len(chunks), max(-(-chunk.end // PAGE) for chunk in chunks)), dtype=np.int32)
    for row, chunk in zip(tables, chunks, strict=True):
        used = -(-chunk.end // PAGE)
        row[:used] = chunk.blocks[:used]
    ends = zip(starts[1:], chunks, strict=True)
    return RowArrays(
        ids=np.concatenate([chunk.ids for chunk in chunks]).astype(np.int64),
        positions=np.concatenate([np.arange(chunk.before, chunk.end) for chunk in chunks]),
        tables=tables,
        ends=np.array([chunk.end for chunk in chunks], dtype=np.int32),
        starts=starts,
        wanted=np.array([end - 1 for end, chunk in ends if chunk.wanted], dtype=np.int32),
    )


class PackedPass:
    """A causal model that has taken page attention, and the pages of its keys and values."""

    def __init__(self, base: Any, pages: int) -> None:
        self.base = base
        self.embedding = base.get_input_embeddings()
        self.device = self.embedding.weight.device
        self.memory = PagedMemory(pages)
        self.head = head_of(base, self.embedding.weight.dtype)
        self.native: NativeDecoder | None = None

    def logits(self, chunks: Sequence[Chunk], adapters: Sequence[str | None] = ()) -> Tensor:
        """fp32 [wanted chunks, V] on the CPU; those of the native decoder are valid until the next call.

        adapters: PEFT's name of each chunk's adapter, where all layers are as the base's and they are not empty; then
        the native decoder may compute it.
        """
        arrays = row_arrays(chunks)
        if self.native is not None and adapters and self.is_native(arrays, adapters):
            return self.native.logits(arrays, adapters)
        states = self.states(arrays, self.embedded(arrays, chunks))
        return self.logits_of(states[self.moved(arrays.wanted.astype(np.int64))])

    def is_native(self, arrays: RowArrays, adapters: Sequence[str | None]) -> bool:
        assert self.native is not None
        if int(arrays.ids.min()) < 0 or len(arrays.ids) > MOST_NATIVE_ROWS:
            return False
        known = all(name is None or name in self.native.places for name in adapters)
        return known and int(arrays.ends.max()) <= self.native.longest

    def take_native(self) -> None:
        """Let passes go through the compiled layers, if the model has their structure."""
        self.native = None
        # Its own forward may do more than the matrix.
        if self.head.module is None:
            return
        # The first pass makes the pages, which the compiled layers keep.
        self.logits([Chunk([0], 0, [0])])
        with suppress(NotTakenError):
            self.native = NativeDecoder(self.base, self.memory, self.head.scale)

    def logits_of(self, states: Tensor) -> Tensor:
        """fp32 [N, V] of states [N, E]."""
        scaled = states if self.head.scale == 1.0 else states * self.head.scale
        return (self.head.module or self.head.own)(scaled).float().cpu()

    def embedded(self, arrays: RowArrays, chunks: Sequence[Chunk]) -> Tensor:
        """[1, T, E]"""
        ids = self.moved(arrays.ids)
        if int(arrays.ids.min()) >= 0:
            return self.embedding(ids[None])
        found = self.embedding(ids.clamp(min=0)[None])
        for chunk, start in zip(chunks, arrays.starts.tolist(), strict=False):
            for place, id_ in enumerate(chunk.ids):
                if id_ < 0 and chunk.virtual is not None:
                    found[0, start + place] = chunk.virtual[-1 - id_].to(found.dtype)
        return found

    def states(self, arrays: RowArrays, embedded: Tensor) -> Tensor:
        """The last hidden states [T, E] of embeddings [1, T, E]."""
        text = np.repeat(np.arange(len(arrays.ends)), np.diff(arrays.starts))
        positions = self.moved(arrays.positions)
        row = PagedRow(
            memory=self.memory,
            starts=self.moved(arrays.starts),
            kept=self.moved(arrays.ends),
            tables=self.moved(arrays.tables),
            pages=self.moved(arrays.tables[text, arrays.positions // PAGE].astype(np.int64)),
            places=positions % PAGE,
        )
        return self.base.base_model(
            inputs_embeds=embedded,
            position_ids=positions[None],
            attention_mask=paged_mask(row, self.device),
            use_cache=False,
        ).last_hidden_state[0]

    @contextmanager
    def in_memory(self, memory: PagedMemory) -> Iterator[None]:
        """Within, keys and values are kept there."""
        own, self.memory = self.memory, memory
        try:
            yield
        finally:
            self.memory = own

    def moved(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)
