"""batch -> loss sum of an encoder-decoder model: packed rows of sources and targets, or padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralchat.data.seq2seq_packing import PackedPairs, source_and_target
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.virtual_tokens import embed_row, leading_keys_values
from neuralchat.models.families.t5 import pair_states
from neuralchat.models.losses.supervised import supervised_loss


def packed_pairs_loss_sum(model: Any, batch: PackedPairs, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of the cross entropies of all targets of `batch`."""
    base = base_model_of(model)
    embedding = base.get_input_embeddings()
    device = embedding.weight.device
    sources = embed_row(model, embedding, torch.from_numpy(batch.source_ids)[None].to(device))
    decoder_inputs = embedding(torch.from_numpy(batch.decoder_ids)[None].to(device))
    states = pair_states(base, sources, decoder_inputs, batch, leading_keys_values(model))
    return supervised_loss(
        states[0],
        base.get_output_embeddings(),
        torch.from_numpy(batch.target_ids).to(device),
        label_smoothing=label_smoothing,
        grad=torch.is_grad_enabled(),
    )


def padded_pairs_loss_sum(
    model: Any, examples: Sequence[Example], *, pad_id: int, label_smoothing: float = 0.0
) -> Tensor:
    """The same sum by the model's own forward, sources and targets padded on the right."""
    base = base_model_of(model)
    pairs = [source_and_target(example) for example in examples]
    sources = padded([source for source, _ in pairs], pad_id)
    mask = padded([np.ones(len(source), dtype=np.int64) for source, _ in pairs], 0)
    labels = padded([target for _, target in pairs], -100)
    start = base.config.decoder_start_token_id
    inputs = padded([np.concatenate([[start], target[:-1]]) for _, target in pairs], pad_id)
    device = base.get_input_embeddings().weight.device
    logits = model(
        input_ids=sources.to(device), attention_mask=mask.to(device), decoder_input_ids=inputs.to(device),
        use_cache=False,
    ).logits  # fmt: skip
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten().to(device), reduction="sum", ignore_index=-100,
        label_smoothing=label_smoothing,
    )  # fmt: skip


def padded(rows: Sequence[np.ndarray], fill: int) -> Tensor:
    width = max(len(row) for row in rows)
    filled = np.full((len(rows), width), fill, dtype=np.int64)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return torch.from_numpy(filled)
