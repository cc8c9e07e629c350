"""models/loading/checkpoint_repair.py: configurations as they are published, of one part or of several."""

from __future__ import annotations

from typing import Any

import pytest
from support.notes import kept_notes
from support.small_models import SIZES
from transformers import Gemma3Config, LlamaConfig

from neuralchat.models.loading.checkpoint_repair import repair_config

TEXT = {**SIZES, "vocab_size": 97}


def configurations(pad_id: int) -> dict[str, Any]:
    text = {**TEXT, "pad_token_id": pad_id}
    return {"one part": LlamaConfig(**text), "several parts": Gemma3Config(text_config={**text, "head_dim": 8})}


@pytest.mark.parametrize("parts", configurations(0))
def test_a_padding_id_outside_the_vocabulary_is_none(parts: str) -> None:
    """The configuration of a model that sees too has neither vocabulary nor padding; its text part has."""
    assert repair_config(configurations(5)[parts]).get_text_config().pad_token_id == 5
    with kept_notes() as notes:
        repaired = repair_config(configurations(-1)[parts])
    assert repaired.get_text_config().pad_token_id is None
    assert notes == ["config.json has pad_token_id -1, outside the vocabulary; read as none"]
