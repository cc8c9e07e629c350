"""The one property of an architecture that reaches everywhere: whether it encodes a source before it decodes."""

from __future__ import annotations

from typing import Any


def is_encoder_decoder(config: Any) -> bool:
    """True for sequence-to-sequence models (T5), False for causal ones. `config`: transformers' configuration."""
    return bool(config.is_encoder_decoder)
