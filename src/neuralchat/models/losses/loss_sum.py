"""The loss of a micro-batch, whatever the architecture: a sum of cross entropies over its supervised tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from neuralchat.data.layout import Packed
from neuralchat.data.seq2seq_packing import PackedSeq2Seq
from neuralchat.data.tokenization import Example
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.losses.causal import causal_packed_loss_sum, causal_padded_loss_sum
from neuralchat.models.losses.seq2seq import seq2seq_packed_loss_sum, seq2seq_padded_loss_sum


def packed_loss_sum(model: Any, batch: Packed, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of the cross entropies of all targets of a packed batch, a scalar in fp32.

    `model`, with or without an adapter, must have been made ready by take_packed_rows.
    """
    if isinstance(batch, PackedSeq2Seq):
        return seq2seq_packed_loss_sum(model, batch, label_smoothing=label_smoothing)
    return causal_packed_loss_sum(model, batch, label_smoothing=label_smoothing)


def padded_loss_sum(model: Any, examples: Sequence[Example], *, pad_id: int, label_smoothing: float = 0.0) -> Tensor:
    """The same sum by the model's own forward on one padded batch: slow, works for every family and method."""
    seq2seq = is_encoder_decoder(base_model_of(model).config)
    loss_sum = seq2seq_padded_loss_sum if seq2seq else causal_padded_loss_sum
    return loss_sum(model, examples, pad_id=pad_id, label_smoothing=label_smoothing)
