"""model -> the layout in which it takes packed rows."""

from __future__ import annotations

from typing import Any

from neuralchat.data.layout import Layout
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.families.table import family_of


def take_packed_rows(model: Any) -> Layout | None:
    """Make a model (with or without an adapter) ready for packed rows; None where its family cannot take them."""
    base = base_model_of(model)
    if not family_of(base.config).take_segments(base):
        return None
    start_id = base.config.decoder_start_token_id if is_encoder_decoder(base.config) else None
    return Layout(virtual_tokens_of(model), start_id)
