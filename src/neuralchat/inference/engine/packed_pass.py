"""The next tokens of many texts through a model in one pass: ids in, logits of the last token of each text out.

Shapes: T tokens of the row, C texts, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralchat.models.attention.pages import PagedMemory, PagedRow, paged_mask
from neuralchat.models.kernels.decoder import PAGE
from neuralchat.models.losses.head import head_of


@dataclass(frozen=True)
class Chunk:
    """Tokens `ids` of a text, which come after `before` tokens whose keys and values lie in `blocks`, as theirs will.

    `wanted`: whether what follows the last of them is asked for.
    """

    ids: Sequence[int]
    before: int
    blocks: Sequence[int]
    wanted: bool = True

    @property
    def end(self) -> int:
        return self.before + len(self.ids)


@dataclass(frozen=True)
class RowArrays:
    """ids, positions: int64 [T]. tables: int32 [C, blocks]. ends: int32 [C], tokens of each text with those of the row.

    starts: where each text's tokens begin, and T.
    """

    ids: np.ndarray
    positions: np.ndarray
    tables: np.ndarray
    ends: np.ndarray
    starts: np.ndarray


def row_arrays(chunks: Sequence[Chunk]) -> RowArrays:
    counts = [len(chunk.ids) for chunk in chunks]
    tables = np.zeros((len(chunks), max(-(-chunk.end // PAGE) for chunk in chunks)), dtype=np.int32)
    for row, chunk in zip(tables, chunks, strict=True):
        used = -(-chunk.end // PAGE)
        row[:used] = chunk.blocks[:used]
    return RowArrays(
        ids=np.concatenate([chunk.ids for chunk in chunks]).astype(np.int64),
        positions=np.concatenate([np.arange(chunk.before, chunk.end) for chunk in chunks]),
        tables=tables,
        ends=np.array([chunk.end for chunk in chunks], dtype=np.int32),
        starts=np.cumsum([0, *counts]),
    )


class PackedPass:
    """A causal model that has taken page attention, and the pages of its keys and values."""

    def __init__(self, base: Any, pages: int) -> None:
        self.base = base
        self.embedding = base.get_input_embeddings()
        self.device = self.embedding.weight.device
        self.memory = PagedMemory(pages)
        self.head = head_of(base, self.embedding.weight.dtype)

    def logits(self, chunks: Sequence[Chunk]) -> Tensor:
        """fp32 [wanted chunks, V] on the CPU. Chunks of one token must come first; each is of another text."""
        arrays = row_arrays(chunks)
        states = self.states(arrays)
        wanted = [int(arrays.starts[i + 1]) - 1 for i, chunk in enumerate(chunks) if chunk.wanted]
        return self.logits_of(states[wanted])

    def logits_of(self, states: Tensor) -> Tensor:
        """fp32 [N, V] of states [N, E]."""
        scaled = states if self.head.scale == 1.0 else states * self.head.scale
        return (self.head.module or self.head.own)(scaled).float().cpu()

    def states(self, arrays: RowArrays) -> Tensor:
        """The last hidden states [T, E]."""
        text = np.repeat(np.arange(len(arrays.ends)), np.diff(arrays.starts))
        positions = self.moved(arrays.positions)
        tables = self.moved(arrays.tables)
        row = PagedRow(
            memory=self.memory,
            starts=arrays.starts.tolist(),
            kept=arrays.ends.tolist(),
            lengths=self.moved(arrays.ends),
            tables=tables,
            pages=self.moved(arrays.tables[text, arrays.positions // PAGE].astype(np.int64)),
            places=positions % PAGE,
            single=int((np.diff(arrays.starts) == 1).cumprod().sum()),
        )
        return self.base.base_model(
            inputs_embeds=self.embedding(self.moved(arrays.ids)[None]),
            position_ids=positions[None],
            attention_mask=paged_mask(row, self.device),
            use_cache=False,
        ).last_hidden_state[0]

    def moved(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)
