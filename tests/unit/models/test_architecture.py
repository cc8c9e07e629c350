"""How many positions a model has, told from its configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.small_models import small_config
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BloomConfig,
    CodeGenConfig,
    GPTJConfig,
    MambaConfig,
    OPTConfig,
    Phi3Config,
    T5Config,
)

from neuralchat.models.families.architecture import position_limit

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 60}
BOUNDED: dict[str, Any] = {
    "learned, under another name": GPTJConfig(
        n_positions=48, n_embd=32, n_layer=1, n_head=4, rotary_dim=4, vocab_size=60
    ),
    "learned": small_config("gpt2", 60),
    "learned, with two rows more": OPTConfig(
        **SMALL, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=48, pad_token_id=0
    ),
    "a table of sines": CodeGenConfig(n_positions=48, n_embd=32, n_layer=1, n_head=4, rotary_dim=4, vocab_size=60),
    "ALiBi as a table": small_config("mpt", 60),
}
UNBOUNDED: dict[str, Any] = {
    "rotary": small_config("llama", 60),
    "rotary of another family": Phi3Config(**SMALL, pad_token_id=0, max_position_embeddings=32),
    "ALiBi": BloomConfig(hidden_size=32, n_layer=1, n_head=4, vocab_size=60),
    "none at all": MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=60),
    "relative": T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, vocab_size=60),
}


def run(config: Any, tokens: int) -> None:
    model = AutoModelForCausalLM.from_config(config)
    ids = torch.ones(1, tokens, dtype=torch.long)
    model(input_ids=ids, attention_mask=torch.ones_like(ids))


@pytest.mark.parametrize("kind", BOUNDED)
def test_the_limit_is_the_most_tokens_that_the_model_takes(kind: str) -> None:
    limit = position_limit(BOUNDED[kind])
    assert limit in (48, 1024)
    run(BOUNDED[kind], limit)
    with pytest.raises((IndexError, RuntimeError)):
        run(BOUNDED[kind], limit + 1)


@pytest.mark.parametrize("kind", UNBOUNDED)
def test_positions_that_are_computed_are_not_bounded(kind: str) -> None:
    assert position_limit(UNBOUNDED[kind]) is None


def test_an_encoder_decoder_model_with_learned_positions() -> None:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = BartConfig(vocab_size=60, d_model=32, max_position_embeddings=40, **sizes)
    assert position_limit(config) == 40


def test_a_hidden_size_that_equals_the_number_of_positions_is_no_limit() -> None:
    config = small_config("llama", 60)
    config.max_position_embeddings = config.hidden_size = 64
    assert position_limit(config) is None


def test_a_configuration_that_no_model_can_be_made_of_has_no_limit() -> None:
    config = small_config("llama", 60)
    config.num_attention_heads = 0
    assert position_limit(config) is None
