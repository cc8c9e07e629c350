"""batch -> loss sum of an encoder-decoder model: packed rows of sources and targets, or padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralchat.data.packing import padded
from neuralchat.data.seq2seq_packing import PackedSeq2Seq, source_and_target
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.virtual_tokens import embed_row, leading_keys_values
from neuralchat.models.families.table import family_of
from neuralchat.models.losses.supervised import supervised_loss


def seq2seq_packed_loss_sum(model: Any, batch: PackedSeq2Seq, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of the cross entropies of all targets of `batch`."""
    base = base_model_of(model)
    embedding = base.get_input_embeddings()
    device = embedding.weight.device
    sources = embed_row(model, embedding, torch.from_numpy(batch.source_ids)[None].to(device))
    decoder_inputs = embedding(torch.from_numpy(batch.decoder_ids)[None].to(device))
    packed_states = family_of(base.config).packed_states
    assert packed_states is not None, "the layout says that this family takes packed rows"
    states = packed_states(base, sources, decoder_inputs, batch, leading_keys_values(model))
    return supervised_loss(
        states[0],
        base.get_output_embeddings(),
        torch.from_numpy(batch.target_ids).to(device),
        label_smoothing=label_smoothing,
        grad=torch.is_grad_enabled(),
    )


def seq2seq_padded_loss_sum(
    model: Any, examples: Sequence[Example], *, pad_id: int, label_smoothing: float = 0.0
) -> Tensor:
    """The same sum by the model's own forward, sources and targets padded on the right."""
    base = base_model_of(model)
    sources, targets = zip(*map(source_and_target, examples), strict=True)
    start = base.config.decoder_start_token_id
    input_ids = torch.from_numpy(padded(sources, pad_id))
    mask = torch.from_numpy(padded([np.ones(len(source), dtype=np.int64) for source in sources], 0))
    labels = torch.from_numpy(padded(targets, -100))
    decoder_ids = torch.from_numpy(padded([np.concatenate([[start], target[:-1]]) for target in targets], pad_id))
    device = base.get_input_embeddings().weight.device
    logits = model(
        input_ids=input_ids.to(device),
        attention_mask=mask.to(device),
        decoder_input_ids=decoder_ids.to(device),
        use_cache=False,
    ).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten().to(device),
        reduction="sum",
        ignore_index=-100,
        label_smoothing=label_smoothing,
    )
