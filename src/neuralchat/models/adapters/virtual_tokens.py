"""The virtual tokens of prompt learning as packed rows take them: embeddings in the row, or keys and values before it.

PEFT computes them (https://arxiv.org/abs/2104.08691, 2103.10385, 2101.00190); here they are computed once a row.

Shapes: T tokens of the row, P virtual tokens, E hidden size, K key/value heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftType
from torch import Tensor

from neuralchat.data.packing import NO_VIRTUAL_TOKENS, VirtualTokens
from neuralchat.models.compat.peft import leading_keys_values_of


def virtual_tokens_of(model: Any) -> VirtualTokens:
    """The virtual tokens of the active adapter; none for a plain model or a method without them."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return NO_VIRTUAL_TOKENS
    return VirtualTokens(config.num_virtual_tokens, in_row=config.peft_type != PeftType.PREFIX_TUNING)


def embed_row(model: Any, embedding: torch.nn.Module, input_ids: Tensor) -> Tensor:
    """input_ids [1, T], where -1 - i stands for virtual token i -> embeddings [1, T, E]."""
    embedded = embedding(input_ids.clamp(min=0))
    (places,) = torch.nonzero(input_ids[0] < 0, as_tuple=True)
    if not len(places):
        return embedded
    prompts = model.get_prompt(batch_size=1)[0].to(embedded.dtype)
    return embedded.index_copy(1, places, prompts[None, -1 - input_ids[0, places]])


def leading_keys_values(model: Any) -> list[tuple[Tensor, Tensor]] | None:
    """Keys and values [1, K, P, D] of each layer for prefix tuning; None for any other method."""
    virtual = virtual_tokens_of(model)
    if not virtual.count or virtual.in_row:
        return None
    return leading_keys_values_of(model.get_prompt(batch_size=1))
