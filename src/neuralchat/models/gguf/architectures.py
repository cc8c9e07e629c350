"""Every architecture that is written as GGUF, a row each: what llama.cpp calls it, its numbers, its changed weights.

Names of weights are those of the gguf package's own tables (TensorNameMap). Sources of what is changed: the
converter and the model files of llama.cpp, which each row is tested against (tests/parity/test_gguf_logits.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neuralchat.errors import ModelError
from neuralchat.models.gguf.hyperparameters import (
    Values,
    gemma2_values,
    gemma3_values,
    gemma_values,
    gpt2_values,
    granite_values,
    long_factors,
    mpt_values,
    neox_values,
    phi3_values,
    rope_factors,
    rope_values,
    starcoder2_values,
    t5_output_scale,
    t5_values,
)

Change = Callable[[str, Tensor, Any], Tensor]


def as_they_are(_name: str, weight: Tensor, _config: Any) -> Tensor:
    return weight


def interleaved(name: str, weight: Tensor, config: Any) -> Tensor:
    """Queries and keys with the two halves of each head's rows woven together: llama.cpp turns neighbouring pairs where
    transformers turns a number and the one half a head further.
    """
    if ".q_proj." in name:
        heads = config.num_attention_heads
    elif ".k_proj." in name:
        heads = config.num_key_value_heads
    else:
        return weight
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def norms_plus_one(name: str, weight: Tensor, _config: Any) -> Tensor:
    """Gemma multiplies by one more than its norms hold."""
    return weight + 1 if name.endswith("norm.weight") else weight


def gpt2_transposed(name: str, weight: Tensor, _config: Any) -> Tensor:
    """GPT-2's layers hold their matrices the other way round."""
    return weight.T if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")) else weight


def neox_heads_apart(name: str, weight: Tensor, config: Any) -> Tensor:
    """GPT-NeoX has query, key and value of each head together; llama.cpp wants all queries, then keys, then values."""
    if "attention.query_key_value" not in name:
        return weight
    heads = config.num_attention_heads
    rows = weight.shape[0] // heads // 3
    return weight.reshape(heads, 3, rows, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """`values`: hyperparameters by GGUF's names, without the architecture before them. `added`: tensors that no weight
    holds. `blocks`: how many layers the table of names is made for. `left_out`: endings of names that are no weights.
    `output_scale`: what transformers multiplies before the last matrix and llama.cpp does not; None where nothing.
    `served`: whether llama.cpp's server answers with it.
    """

    name: str
    values: Callable[[Any], Values] = rope_values
    change: Change = as_they_are
    added: Callable[[Any], Mapping[str, Tensor]] = rope_factors
    left_out: tuple[str, ...] = ()
    output_scale: Callable[[Any], float | None] = lambda _config: None
    served: bool = True


# model_type of transformers -> row.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(name="llama", change=interleaved),
    "mistral": Architecture(name="llama", change=interleaved),
    "qwen2": Architecture(name="qwen2"),
    "qwen3": Architecture(name="qwen3"),
    "smollm3": Architecture(name="smollm3", change=interleaved),
    "granite": Architecture(name="granite", values=granite_values, change=interleaved),
    "olmo2": Architecture(name="olmo2"),
    "starcoder2": Architecture(name="starcoder2", values=starcoder2_values),
    "gemma": Architecture(name="gemma", values=gemma_values, change=norms_plus_one),
    "gemma2": Architecture(name="gemma2", values=gemma2_values, change=norms_plus_one),
    "gemma3_text": Architecture(name="gemma3", values=gemma3_values, change=norms_plus_one),
    "phi3": Architecture(name="phi3", values=phi3_values, added=long_factors),
    "gpt2": Architecture(
        name="gpt2", values=gpt2_values, change=gpt2_transposed, left_out=(".attn.bias", ".attn.masked_bias")
    ),
    "gpt_neox": Architecture(
        name="gptneox", values=neox_values, change=neox_heads_apart,
        left_out=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
    ),
    "mpt": Architecture(name="mpt", values=mpt_values),
    "t5": Architecture(name="t5", values=t5_values, output_scale=t5_output_scale, served=False),
}  # fmt: skip


def architecture_of(config: Any) -> Architecture:
    """Raises ModelError for a model that is not written as GGUF."""
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise ModelError(
            f"a model of type '{config.model_type}' is not written as GGUF here; {', '.join(ARCHITECTURES)} are. "
            "--merge writes a whole model that llama.cpp's own converter may know"
        )
    return found
