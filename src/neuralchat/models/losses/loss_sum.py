"""The loss of a micro-batch, whatever the architecture: a sum of cross entropies over its supervised tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from neuralchat.data.packing import PackedBatch
from neuralchat.data.seq2seq_packing import PackedPairs
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.losses import causal as causal_loss
from neuralchat.models.losses import seq2seq as pair_loss


def packed_loss_sum(model: Any, batch: PackedBatch | PackedPairs, *, label_smoothing: float = 0.0) -> Tensor:
    if isinstance(batch, PackedPairs):
        return pair_loss.packed_pairs_loss_sum(model, batch, label_smoothing=label_smoothing)
    return causal_loss.packed_loss_sum(model, batch, label_smoothing=label_smoothing)


def padded_loss_sum(model: Any, examples: Sequence[Example], *, pad_id: int, label_smoothing: float = 0.0) -> Tensor:
    of_pairs = base_model_of(model).config.is_encoder_decoder
    loss = pair_loss.padded_pairs_loss_sum if of_pairs else causal_loss.padded_loss_sum
    return loss(model, examples, pad_id=pad_id, label_smoothing=label_smoothing)
