"""Virtual tokens at the beginning of every text of an adapter: embeddings of its first places, or keys and values.

Shapes: P virtual tokens, E hidden size, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuralchat.models.adapters.virtual_tokens import leading_keys_values, virtual_tokens_of
from neuralchat.models.attention.pages import PagedMemory
from neuralchat.models.kernels.decoder import PAGE


@dataclass(frozen=True)
class VirtualStart:
    """`embedded`: [P, E], or None where `leading` has keys and values [1, K, P, D] of each layer."""

    count: int
    embedded: Tensor | None
    leading: Sequence[tuple[Tensor, Tensor]] | None

    @property
    def ids(self) -> list[int]:
        """What stands in the places of virtual tokens: -1, -2, ..."""
        return [-1 - i for i in range(self.count)]

    def write(self, memory: PagedMemory, blocks: Sequence[int]) -> None:
        """Put the keys and values where those of a text's first tokens lie."""
        assert self.leading is not None
        tokens = torch.arange(self.count)
        pages, places = torch.tensor(blocks)[tokens // PAGE], tokens % PAGE
        for layer, (key, value) in enumerate(self.leading):
            memory.write(layer, key, value, pages, places)


@torch.no_grad()
def virtual_start(model: Any) -> VirtualStart:
    """Of a PeftModel whose adapter is virtual tokens: what its encoder makes of them, once for all texts."""
    virtual = virtual_tokens_of(model)
    if virtual.in_row:
        return VirtualStart(virtual.count, model.get_prompt(batch_size=1)[0, : virtual.count].detach(), None)
    return VirtualStart(virtual.count, None, leading_keys_values(model))
