"""Every architecture that is written as GGUF: llama.cpp's probabilities are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from support.engines.llama_cpp import log_probabilities, needs_llama_cpp
from support.small_models import SIZES, make_tokenizer, small_config
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from neuralchat.models.gguf.architectures import ARCHITECTURES
from neuralchat.models.gguf.tensor_types import TENSOR_TYPES
from neuralchat.models.gguf.vocabulary import vocabulary_of
from neuralchat.models.gguf.writing import GgufText, named_weights, write_gguf

VOCABULARY = 400
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
GEMMA = {"head_dim": 16, "num_key_value_heads": 2, "hidden_activation": "gelu_pytorch_tanh"}
# name -> (model_type, changes to the small sizes)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama_untied": ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "llama_biases": ("llama", {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True}),
    "llama_wide_heads": ("llama", {"num_key_value_heads": 2, "head_dim": 16}),
    "llama_scaled": ("llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA3}),
    "llama_linear": (
        "llama",
        {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "llama_yarn": (
        "llama", {
            "num_key_value_heads": 2, "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 256
            },
        },
    ),
    "mistral": ("mistral", {"num_key_value_heads": 2, "sliding_window": None}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
    "smollm3": ("smollm3", {"num_key_value_heads": 2, "num_hidden_layers": 5, "no_rope_layer_interval": 4}),
    "granite": (
        "granite", {
            "num_key_value_heads": 2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
            "attention_multiplier": 0.2, "logits_scaling": 2.0,
        },
    ),
    "olmo2": ("olmo2", {"num_key_value_heads": 2}),
    "starcoder2": ("starcoder2", {"num_key_value_heads": 2, "sliding_window": None, "use_bias": True}),
    "gemma": ("gemma", {**GEMMA}),
    "gemma2": ("gemma2", {**GEMMA, "query_pre_attn_scalar": 16, "sliding_window": 64}),
    "gemma3": ("gemma3_text", {**GEMMA, "query_pre_attn_scalar": 16, "sliding_window": 64, "num_hidden_layers": 6}),
    "phi3": ("phi3", {"num_key_value_heads": 2, "sliding_window": 512}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {"rotary_pct": 0.5}),
    "mpt": ("mpt", {}),
}  # fmt: skip
PROMPTS = [[7], [5, 9, 30, 99, 200, 301], [(17 * i) % 390 + 5 for i in range(70)]]


def made_model(case: str, **more: Any) -> Any:
    kind, changes = CASES[case]
    changes = {**changes, **more}
    if kind in ("gpt2", "mpt"):
        config = small_config(kind, VOCABULARY)
    else:
        config = CONFIG_MAPPING[kind](**{**SIZES, "vocab_size": VOCABULARY, **changes})
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1 and "norm" in name), std=0.2)
    return model.eval()


def written(path: Path, model: Any, kind: str) -> Path:
    tokenizer = make_tokenizer()
    vocabulary = vocabulary_of(tokenizer, VOCABULARY, [tokenizer.eos_token_id], [])
    write_gguf(path, model, GgufText(name="small", vocabulary=vocabulary), TENSOR_TYPES[kind])
    return path


def looked_up_gelu(values: torch.Tensor) -> torch.Tensor:
    """llama.cpp looks GELU up in a table of half precision, by its approximation with tanh, whatever the model says."""
    found = torch.nn.functional.gelu(values.half().float(), approximate="tanh").half().float()
    return torch.where(values >= 10, values, found)


def with_llama_cpps_gelu(model: Any) -> bool:
    """Whether there is one."""
    found = [module for module in model.modules() if "gelu" in type(module).__name__.lower()]
    for module in found:
        module.forward = looked_up_gelu
    return bool(found)


def largest_difference(path: Path, model: Any) -> float:
    found = log_probabilities(path, PROMPTS, VOCABULARY, make_tokenizer().convert_tokens_to_ids("a"))
    differences = []
    for prompt, by_id in zip(PROMPTS, found, strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(0)
        # Very unlikely tokens have no probability in single precision.
        seen = [(id_, value) for id_, value in by_id.items() if expected[id_] > -60]
        assert len(seen) > VOCABULARY / 2
        differences += [abs(float(expected[id_]) - value) for id_, value in seen]
    return max(differences)


@pytest.mark.parametrize("case", list(CASES))
def test_llama_cpp_gives_the_probabilities_of_transformers(case: str, tmp_path: Path) -> None:
    needs_llama_cpp()
    model = made_model(case)
    file = written(tmp_path / "model.gguf", model, "f32")
    if largest_difference(file, model) >= 1e-3:
        assert largest_difference(file, model) < 1e-2
        assert with_llama_cpps_gelu(model)
        assert largest_difference(file, model) < 1e-3


def test_half_precision_is_near(tmp_path: Path) -> None:
    needs_llama_cpp()
    model = made_model("llama")
    found = largest_difference(written(tmp_path / "model.gguf", model, "f16"), model)
    assert 1e-6 < found < 1e-2


def test_k_quants_are_read_as_they_are_meant(tmp_path: Path) -> None:
    """The model with the weights that the file stores, since theirs are far from the model's."""
    needs_llama_cpp()
    model = made_model("qwen2", hidden_size=256, intermediate_size=512, num_hidden_layers=4)
    file = written(tmp_path / "model.gguf", model, "q5_k_m")
    to_model, stored = largest_difference(file, model), {t.name: t for t in gguf.GGUFReader(file).tensors}
    with torch.no_grad():
        for name, weight in named_weights(model, ARCHITECTURES["qwen2"]):
            found = torch.from_numpy(gguf.quants.dequantize(stored[name].data, stored[name].tensor_type).copy())
            weight.copy_(found.view(weight.shape))
    assert stored["blk.3.ffn_down.weight"].tensor_type.name == "Q6_K"
    found = largest_difference(file, model)
    assert found < to_model / 3


def test_every_architecture_has_a_case() -> None:
    # t5: tests/parity/test_gguf_encoders.py.
    assert {kind for kind, _ in CASES.values()} | {"t5"} == set(ARCHITECTURES)
