"""Published models by their shapes: enough to plan for, where nothing of them is here.

A shape is a row: its name, transformers' configuration class, and the values in which it differs from that.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from neuralchat.errors import ArgumentsError

# A number of parameters as people write it, and what its letter stands for.
PARAMETERS = re.compile(r"(\d+(?:\.\d+)?)\s*([kmbt]?)", re.IGNORECASE)
LETTERS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
# Of the shape of LLaMA: vocabulary, and the width for each of its layers.
VOCABULARY, WIDTH_PER_LAYER = 32_000, 128


def llama_shape(
    width: int, inner: int, layers: int, heads: int, keys: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        **more,
    }


def flan_t5_shape(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "d_model": width,
        "d_kv": 64,
        "d_ff": inner,
        "num_layers": layers,
        "num_heads": heads,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    }


def mpt_shape(width: int, heads: int, layers: int) -> dict[str, Any]:
    return {"d_model": width, "n_heads": heads, "n_layers": layers, "vocab_size": 50432, "max_seq_len": 2048}


NEOX_20B = {
    "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44, "num_attention_heads": 64,
    "vocab_size": 50432,
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm2-135m": ("LlamaConfig", llama_shape(576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True)),
    "llama-7b": ("LlamaConfig", llama_shape(4096, 11008, 32, 32, 32, 32000)),
    "llama-13b": ("LlamaConfig", llama_shape(5120, 13824, 40, 40, 40, 32000)),
    "llama-65b": ("LlamaConfig", llama_shape(8192, 22016, 80, 64, 64, 32000)),
    "llama-2-70b": ("LlamaConfig", llama_shape(8192, 28672, 80, 64, 8, 32000)),
    "llama-3-8b": ("LlamaConfig", llama_shape(4096, 14336, 32, 32, 8, 128256)),
    "llama-3.2-1b": ("LlamaConfig", llama_shape(2048, 8192, 16, 32, 8, 128256, tie_word_embeddings=True)),
    "mistral-7b": ("MistralConfig", llama_shape(4096, 14336, 32, 32, 8, 32000)),
    "qwen2.5-0.5b": ("Qwen2Config", llama_shape(896, 4864, 24, 14, 2, 151936, tie_word_embeddings=True)),
    "qwen2.5-1.5b": ("Qwen2Config", llama_shape(1536, 8960, 28, 12, 2, 151936, tie_word_embeddings=True)),
    "qwen2.5-7b": ("Qwen2Config", llama_shape(3584, 18944, 28, 28, 4, 152064)),
    "mpt-7b": ("MptConfig", mpt_shape(4096, 32, 32)),
    "mpt-30b": ("MptConfig", mpt_shape(7168, 64, 48)),
    "flan-t5-base": ("T5Config", flan_t5_shape(768, 2048, 12, 12)),
    "flan-t5-large": ("T5Config", flan_t5_shape(1024, 2816, 24, 16)),
    "flan-t5-xl": ("T5Config", flan_t5_shape(2048, 5120, 24, 32)),
    "flan-t5-xxl": ("T5Config", flan_t5_shape(4096, 10240, 24, 64)),
    "gpt-neox-20b": ("GPTNeoXConfig", NEOX_20B),
}


def shape_named(name: str) -> Any:
    """The configuration of a row of SHAPES. Raises ArgumentsError, which names the rows, for any other name."""
    import transformers

    row = SHAPES.get(name.lower())
    if row is None:
        near = difflib.get_close_matches(name.lower(), SHAPES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ArgumentsError(
            f"--model_config is '{name}', which is no configuration here; {hint}Known by name are "
            f"{', '.join(SHAPES)}. A directory with a config.json does too, or --model_parameters 7B"
        )
    kind, values = row
    return getattr(transformers, kind)(**values)


def llama_of(text: str) -> Any:
    """The configuration of a LLaMA with about as many parameters as `text` says. Raises ArgumentsError."""
    from transformers import LlamaConfig

    match = PARAMETERS.fullmatch(text.strip())
    wanted = float(match[1]) * LETTERS[match[2].lower()] if match else 0.0
    if not 1e6 <= wanted <= 1e13:
        raise ArgumentsError(f"--model_parameters is '{text}'; give a number such as 7B or 350M")
    # About 12 x width² in a layer, and two matrices for the vocabulary.
    layers = min(
        range(1, 400),
        key=lambda n: abs(12 * n * (n * WIDTH_PER_LAYER) ** 2 + 2 * VOCABULARY * n * WIDTH_PER_LAYER - wanted),
    )
    width = layers * WIDTH_PER_LAYER
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=int(width * 8 / 3) // 256 * 256,
        num_hidden_layers=layers,
        num_attention_heads=layers,
        num_key_value_heads=layers,
    )
