"""models/loading/checkpoint_repair.py: configurations as they are published, of one part or of several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.notes import kept_notes
from support.runs import Desk
from support.small_models import SIZES, make_tokenizer, save_checkpoint
from transformers import AutoTokenizer, Gemma3Config, LlamaConfig

from neuralchat.models.loading.base_model import ModelSource, load_tokenizer
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


def test_a_token_that_only_the_class_adds_is_left_out_where_the_model_has_no_row_for_it(tmp_path: Path) -> None:
    """Of a Qwen2 model whose vocabulary has no <|endoftext|>: transformers' class takes that for its unknown token."""
    model = save_checkpoint(tmp_path / "model", "qwen2")
    own = make_tokenizer()
    assert len(AutoTokenizer.from_pretrained(model)) == len(own) + 1
    with kept_notes() as notes:
        found = load_tokenizer(ModelSource(name=str(model)), len(own))
    assert (found.get_vocab(), found.unk_token) == (own.get_vocab(), None)
    assert (found.eos_token, found.pad_token, found.chat_template) == ("<|end|>", "<|pad|>", own.chat_template)
    assert notes == ["Qwen2Tokenizer adds <|endoftext|>, which the model has no embedding for; it is left out"]
    # With a row, or named by the files, it stays.
    assert load_tokenizer(ModelSource(name=str(model)), len(own) + 1).unk_token == "<|endoftext|>"
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "unk_token": "<|endoftext|>"}))
    assert load_tokenizer(ModelSource(name=str(model)), len(own)).unk_token == "<|endoftext|>"


@pytest.mark.slow
def test_such_a_model_is_trained_and_exported(tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "model", "qwen2")
    desk = Desk(tmp_path, model)
    train = f"finetune --model_name_or_path {model} --train_file records.json --output_dir run --max_steps 2"
    for words in (train, "export run --gguf f32 --output file", f"export {model} --gguf f32 --output base"):
        status, said = desk.run(*words.split())
        assert status == 0, said
