"""A LoRA adapter as a file of its own: beside its base model in llama.cpp it gives the probabilities of PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.engines.llama_cpp import log_probabilities, needs_llama_cpp
from support.small_models import SIZES, make_tokenizer, small_config
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from neuralchat.errors import AdapterError
from neuralchat.models.gguf.adapter_writing import write_gguf_adapter
from neuralchat.models.gguf.tensor_types import TENSOR_TYPES
from neuralchat.models.gguf.vocabulary import vocabulary_of
from neuralchat.models.gguf.writing import GgufText, write_gguf

VOCABULARY = 400
PROMPTS = [[7], [5, 9, 30, 99, 200, 301], [(17 * i) % 390 + 5 for i in range(40)]]
# model_type -> (changes to the small sizes, layers with LoRA): each way of ordering rows that there is.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "llama": ({"num_key_value_heads": 2}, ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]),
    "qwen2": ({"num_key_value_heads": 2}, ["q_proj", "v_proj", "gate_proj", "up_proj"]),
    "phi3": ({"num_key_value_heads": 2, "sliding_window": 512}, ["qkv_proj", "gate_up_proj"]),
    "gpt2": ({}, ["c_attn", "c_proj", "c_fc"]),
    "gpt_neox": ({"rotary_pct": 0.5}, ["query_key_value", "dense"]),
    "mpt": ({}, ["Wqkv", "up_proj"]),
}


def made_base(kind: str, **changes: Any) -> Any:
    if kind in ("gpt2", "mpt"):
        config = small_config(kind, VOCABULARY)
    else:
        config = CONFIG_MAPPING[kind](**{**SIZES, "vocab_size": VOCABULARY, "tie_word_embeddings": False, **changes})
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1 and "norm" in name), std=0.1)
    return model.eval()


def adapted(base: Any, layers: list[str], **settings: Any) -> Any:
    config = LoraConfig(r=4, lora_alpha=12, target_modules=layers, init_lora_weights=False, **settings)
    torch.manual_seed(5)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def written_base(path: Path, model: Any) -> Path:
    tokenizer = make_tokenizer()
    vocabulary = vocabulary_of(tokenizer, VOCABULARY, [tokenizer.eos_token_id], [])
    write_gguf(path, model, GgufText(name="small", vocabulary=vocabulary), TENSOR_TYPES["f32"])
    return path


def differences(place: Path, base: Any, layers: list[str], kind: str = "f32", **settings: Any) -> tuple[float, float]:
    """The largest of llama.cpp's log-probabilities to (those of PEFT, those of the base model)."""
    file = written_base(place / "base.gguf", base)
    with torch.inference_mode():
        plain = [base(torch.tensor([p])).logits[0, -1].double().log_softmax(0) for p in PROMPTS]
        model = adapted(base, layers, **settings)
        tuned = [model(torch.tensor([p])).logits[0, -1].double().log_softmax(0) for p in PROMPTS]
    assert write_gguf_adapter(place / "lora.gguf", model, TENSOR_TYPES[kind], "small") > 0
    answered = make_tokenizer().convert_tokens_to_ids("a")
    found = log_probabilities(file, PROMPTS, VOCABULARY, answered, lora=place / "lora.gguf")
    return tuple(
        max(abs(float(one[id_]) - value) for one, by in zip(expected, found, strict=True) for id_, value in by.items())
        for expected in (tuned, plain)
    )


@pytest.mark.parametrize("kind", CASES)
def test_llama_cpp_with_the_adapter_beside_is_the_adapted_model(kind: str, tmp_path: Path) -> None:
    needs_llama_cpp()
    changes, layers = CASES[kind]
    to_tuned, to_base = differences(tmp_path, made_base(kind, **changes), layers)
    # llama.cpp looks GELU up in half precision, see test_gguf_logits.py.
    assert to_tuned < (1e-2 if kind in ("gpt2", "gpt_neox", "mpt") else 1e-3)
    assert to_base > 0.1


def test_ranks_scalings_and_the_first_matrix(tmp_path: Path) -> None:
    needs_llama_cpp()
    settings = {"use_rslora": True, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 30}}
    to_tuned, to_base = differences(
        tmp_path, made_base("llama"), ["q_proj", "v_proj", "embed_tokens", "lm_head"], **settings
    )
    assert to_tuned < 1e-3 < to_base


def test_half_precision_is_near(tmp_path: Path) -> None:
    needs_llama_cpp()
    to_tuned, to_base = differences(tmp_path, made_base("llama"), ["q_proj", "v_proj"], kind="f16")
    assert 1e-7 < to_tuned < 1e-2 < to_base


@pytest.mark.parametrize(
    ("layers", "settings", "told"),
    [
        (["embed_tokens"], {}, "both the first and the last"),
        (["q_proj"], {"use_dora": True}, "more than two matrices"),
        (["q_proj"], {"modules_to_save": ["lm_head"]}, "whole layers"),
        (["q_proj"], {"trainable_token_indices": [3]}, "embeddings of added tokens"),
    ],
)
def test_what_llama_cpp_has_no_place_for(
    layers: list[str], settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    model = adapted(made_base("llama", tie_word_embeddings=True), layers, **settings)
    with pytest.raises(AdapterError, match=told):
        write_gguf_adapter(tmp_path / "lora.gguf", model, TENSOR_TYPES["f32"], "small")
    assert not (tmp_path / "lora.gguf").exists()
