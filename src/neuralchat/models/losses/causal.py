"""batch -> loss sum of a causal model: packed rows through segments, padded batches through the model's forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralchat.data.packing import PackedBatch
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.virtual_tokens import embed_row, leading_keys_values
from neuralchat.models.families.table import family_of
from neuralchat.models.losses.head import head_of
from neuralchat.models.losses.supervised import supervised_loss


def causal_packed_loss_sum(model: Any, batch: PackedBatch, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of the cross entropies of all targets of `batch`. `model`: a causal LM or a PeftModel around one.

    The model must have been made ready by take_packed_rows.
    """
    base = base_model_of(model)
    embedding = base.get_input_embeddings()
    device = embedding.weight.device
    embedded = embed_row(model, embedding, torch.from_numpy(batch.input_ids)[None].to(device))
    packed_states = family_of(base.config).packed_states
    assert packed_states is not None, "the layout says that this family takes packed rows"
    states = packed_states(base, embedded, batch, leading_keys_values(model))
    targets = states[0].index_select(0, torch.from_numpy(batch.target_positions).to(device))
    head = head_of(base, targets.dtype)
    if head.scale != 1.0:
        targets = targets * head.scale
    return supervised_loss(
        targets,
        head.module or head.own,
        torch.from_numpy(batch.target_ids).to(device),
        label_smoothing=label_smoothing,
        grad=torch.is_grad_enabled(),
    )


def causal_padded_loss_sum(
    model: Any, examples: Sequence[Example], *, pad_id: int, label_smoothing: float = 0.0
) -> Tensor:
    """The same sum by the model's own forward on a right-padded batch: slow, works for every family and method."""
    width = max(len(example.input_ids) for example in examples)
    ids = np.full((len(examples), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(examples), width), dtype=np.int64)
    supervised = np.zeros((len(examples), width), dtype=bool)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        ids[row, :size], mask[row, :size], supervised[row, :size] = example.input_ids, 1, example.supervised
    base = base_model_of(model)
    device = base.get_input_embeddings().weight.device
    input_ids = torch.from_numpy(ids).to(device)
    logits = model(input_ids=input_ids, attention_mask=torch.from_numpy(mask).to(device), use_cache=False).logits
    # Virtual tokens of prompt methods stand before the text; positions are counted from the end.
    rows, columns = (torch.from_numpy(x).to(device) for x in np.nonzero(supervised))
    chosen = logits[:, logits.shape[1] - width :][rows, columns - 1]
    return torch.nn.functional.cross_entropy(
        chosen.float(), input_ids[rows, columns], reduction="sum", label_smoothing=label_smoothing
    )
