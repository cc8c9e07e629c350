"""Encoder-decoder models as GGUF: the logits of llama.cpp's library are those of transformers.

Its server has no encoders, so its functions are called: encode the source, decode the answer's beginning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines.llama_cpp import needs_llama_cpp
from support.engines.llama_library import encoded_logits
from support.small_models import make_tokenizer
from transformers import T5Config, T5ForConditionalGeneration

from neuralchat.errors import ModelError
from neuralchat.models.gguf.architectures import architecture_of
from neuralchat.models.gguf.tensor_types import TENSOR_TYPES
from neuralchat.models.gguf.vocabulary import vocabulary_of
from neuralchat.models.gguf.writing import GgufText, write_gguf

ROWS = 400
ASKED = [([7, 8, 2], [0]), ([(17 * i) % 390 + 5 for i in range(200)] + [2], [0, 9, 30, 99, 12])]
# T5 1.0: one matrix is first and last. 1.1, Flan: another last one, and gated GELU, which llama.cpp looks up in halves.
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "t5": ({"feed_forward_proj": "relu"}, 1e-3),
    "flan_t5": ({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, 1e-2),
}


def made_t5(**changes: Any) -> Any:
    config = T5Config(
        vocab_size=ROWS, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_decoder_layers=2, num_heads=4, dropout_rate=0.0,
        eos_token_id=2, pad_token_id=0, decoder_start_token_id=0, **changes,
    )  # fmt: skip
    torch.manual_seed(5)
    model = T5ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_llama_cpp_gives_the_logits_of_transformers(case: str, kind: str, tmp_path: Path) -> None:
    needs_llama_cpp()
    changes, most = CASES[case]
    model, tokenizer = made_t5(**changes), make_tokenizer()
    text = GgufText(name="small", vocabulary=vocabulary_of(tokenizer, ROWS, [tokenizer.eos_token_id], []))
    write_gguf(tmp_path / "t5.gguf", model, text, TENSOR_TYPES[kind])
    found = encoded_logits(tmp_path / "t5.gguf", ASKED, ROWS)
    for (source, beginning), logits in zip(ASKED, found, strict=True):
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([beginning])).logits[
                0, -1
            ]
        assert expected.abs().max() > 0.5
        difference = float((expected - torch.tensor(logits)).abs().max())
        assert difference < (most if kind == "f32" else 1e-2 * float(expected.abs().max()))


def test_another_reach_of_positions_is_refused() -> None:
    config = made_t5(relative_attention_max_distance=20).config
    with pytest.raises(ModelError, match="it tells positions apart up to 20, not 128, which llama"):
        architecture_of(config).values(config)
