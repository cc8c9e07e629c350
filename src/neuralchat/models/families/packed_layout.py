"""model -> the layout in which it takes packed rows."""

from __future__ import annotations

import weakref
from typing import Any

from neuralchat.data.layout import Layout
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.compat.transformers import attention_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.families.table import family_of

# The attention implementation that each model had before it took packed rows.
attention_before: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def take_packed_rows(model: Any) -> Layout | None:
    """Make a model (with or without an adapter) ready for packed rows; None where its family cannot take them."""
    base = base_model_of(model)
    attention_before.setdefault(base, attention_of(base))
    if not family_of(base.config).take_segments(base):
        return None
    start_id = base.config.decoder_start_token_id if is_encoder_decoder(base.config) else None
    return Layout(virtual_tokens_of(model), start_id)


def leave_packed_rows(model: Any) -> None:
    """Give a model back the attention that it had before take_packed_rows."""
    base = base_model_of(model)
    before = attention_before.pop(base, None)
    if before not in (None, attention_of(base)):
        base.set_attn_implementation(before)
