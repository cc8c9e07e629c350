"""The numbers of a transformers configuration by the names that GGUF has for them.

A setting that llama.cpp would compute otherwise is refused by name, never left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neuralchat.console import note
from neuralchat.errors import ModelError

Value = int | float | bool | str | list[int] | list[bool]
Values = dict[str, Value]


def refuse(config: Any, what: str) -> ModelError:
    return ModelError(
        f"this {config.model_type} model cannot be written as GGUF: {what}, which llama.cpp does not compute"
    )


def head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def positions(config: Any) -> int:
    """Those that llama.cpp computes as transformers does: it knows no sliding window in most architectures."""
    limit = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or "sliding_attention" in kinds
    if slides and window is not None and window < limit:
        note(f"the model's attention slides over {window} tokens, which llama.cpp does not do; the file allows no more")
        return window
    return limit


def sizes(config: Any) -> Values:
    """What every decoder has."""
    return {
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        "vocab_size": config.vocab_size,
    }


def rope_values(config: Any) -> Values:
    """Rotated positions and root mean square norms: LLaMA's structure. Raises ModelError."""
    if getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
        raise refuse(config, f"its activation is {config.hidden_act}")
    return {
        **sizes(config),
        "context_length": positions(config),
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": head_size(config),
        "attention.value_length": head_size(config),
        **rotation(config, head_size(config)),
    }


def rotation(config: Any, size: int) -> Values:
    """How positions turn: base, share of a head, and scaling. Raises ModelError for a scaling that is not known."""
    rope = rope_parameters(config)
    values: Values = {
        "rope.dimension_count": int(size * rope.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": float(rope.get("rope_theta", 10000.0)),
    }
    kind = rope.get("rope_type", "default")
    if kind in ("default", "llama3", "longrope"):
        # The last two are tensors of factors.
        return values
    if kind == "linear":
        return values | {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn" and set(rope) <= YARN_KNOWN and rope.get("truncate", True):
        return values | {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": int(
                rope.get("original_max_position_embeddings") or config.max_position_embeddings
            ),
        }
    raise refuse(config, f"its positions are scaled by '{kind}'")


YARN_KNOWN = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings", "truncate"}


def rope_parameters(config: Any) -> Mapping[str, Any]:
    found = getattr(config, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in found.values()):
        # By kind of layer.
        return found.get("full_attention", {})
    return found


def rope_factors(config: Any) -> Mapping[str, Tensor]:
    """LLaMA 3's scaling: how much slower each pair of numbers turns."""
    rope = rope_parameters(config)
    if rope.get("rope_type") != "llama3":
        return {}
    size = int(head_size(config) * rope.get("partial_rotary_factor", 1.0))
    frequencies = 1.0 / (rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = torch.where(wavelengths < original / high, torch.ones_like(between), between)
    return {"rope_freqs.weight": torch.where(wavelengths > original / low, torch.full_like(between, factor), factors)}


def granite_values(config: Any) -> Values:
    return {
        **rope_values(config),
        "embedding_scale": float(config.embedding_multiplier),
        "residual_scale": float(config.residual_multiplier),
        "attention.scale": float(config.attention_multiplier),
        "logit_scale": float(config.logits_scaling),
    }


def starcoder2_values(config: Any) -> Values:
    if config.hidden_act != "gelu_pytorch_tanh":
        raise refuse(config, f"its activation is {config.hidden_act}")
    return {
        **sizes(config),
        "context_length": positions(config),
        "attention.layer_norm_epsilon": config.norm_epsilon,
        **rotation(config, head_size(config)),
    }


def gemma_values(config: Any) -> Values:
    return {
        **sizes(config),
        "context_length": config.max_position_embeddings,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        **rotation(config, config.head_dim),
    }


def gemma2_values(config: Any) -> Values:
    # llama.cpp divides scores by this root itself, but for the largest model.
    expected = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == 46 else config.head_dim
    if config.query_pre_attn_scalar != expected:
        raise refuse(config, f"it divides scores by the root of {config.query_pre_attn_scalar}")
    if config.final_logit_softcapping is None or config.attn_logit_softcapping is None:
        raise refuse(config, "it does not cap its scores")
    return {
        **gemma_values(config),
        "attn_logit_softcapping": float(config.attn_logit_softcapping),
        "final_logit_softcapping": float(config.final_logit_softcapping),
        "attention.sliding_window": config.sliding_window,
    }


def gemma3_values(config: Any) -> Values:
    if config.query_pre_attn_scalar != config.head_dim:
        raise refuse(config, f"it divides scores by the root of {config.query_pre_attn_scalar}")
    if config.final_logit_softcapping or config.attn_logit_softcapping:
        raise refuse(config, "it caps its scores")
    expected = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(config.num_hidden_layers)]
    if list(config.layer_types) != expected:
        raise refuse(config, "not every sixth layer looks at the whole text")
    local = config.rope_parameters.get("sliding_attention", {})
    if local.get("rope_theta", 10000.0) != 10000.0 or local.get("rope_type", "default") != "default":
        raise refuse(config, "its sliding layers turn positions at another base than 10000")
    return {**gemma_values(config), "attention.sliding_window": config.sliding_window}


def phi3_values(config: Any) -> Values:
    values = {**rope_values(config)}
    # Phi-3's own window is told to llama.cpp, which computes it.
    if getattr(config, "sliding_window", None):
        values |= {"attention.sliding_window": config.sliding_window, "context_length": config.max_position_embeddings}
    if rope_parameters(config).get("rope_type") == "longrope":
        original = original_positions(config)
        scale = config.max_position_embeddings / original
        strength = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        values |= {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": strength}
    return values


def original_positions(config: Any) -> int:
    return int(
        rope_parameters(config).get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
    )


def long_factors(config: Any) -> Mapping[str, Tensor]:
    """Phi-3's scaling for long texts: two lists of factors, of which llama.cpp chooses by the context it is given."""
    rope = rope_parameters(config)
    if rope.get("rope_type") != "longrope":
        return rope_factors(config)
    return {
        "rope_factors_long.weight": torch.tensor(rope["long_factor"], dtype=torch.float32),
        "rope_factors_short.weight": torch.tensor(rope["short_factor"], dtype=torch.float32),
    }


def gpt2_values(config: Any) -> Values:
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        raise refuse(config, f"its activation is {config.activation_function}")
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        raise refuse(config, "it scales its scores in another way")
    return {
        "block_count": config.n_layer,
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.n_inner or 4 * config.n_embd,
        "attention.head_count": config.n_head,
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
    }


def neox_values(config: Any) -> Values:
    if config.hidden_act not in ("gelu", "gelu_new", "gelu_fast"):
        raise refuse(config, f"its activation is {config.hidden_act}")
    return {
        **sizes(config),
        "context_length": config.max_position_embeddings,
        "use_parallel_residual": bool(config.use_parallel_residual),
        "attention.layer_norm_epsilon": config.layer_norm_eps,
        **rotation(config, head_size(config)),
    }


def mpt_values(config: Any) -> Values:
    attention = config.attn_config
    if not attention.alibi:
        raise refuse(config, "it has no ALiBi")
    if attention.qk_ln or attention.softmax_scale:
        raise refuse(config, "it changes its scores in another way")
    values: Values = {
        "block_count": config.n_layers,
        "context_length": config.max_seq_len,
        "embedding_length": config.d_model,
        "feed_forward_length": config.expansion_ratio * config.d_model,
        "attention.head_count": config.n_heads,
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        "attention.max_alibi_bias": float(attention.alibi_bias_max),
    }
    if attention.clip_qkv:
        values["attention.clamp_kqv"] = float(attention.clip_qkv)
    return values


# llama.cpp has this one in its code.
T5_DISTANCE = 128


def t5_output_scale(config: Any) -> float | None:
    """Of T5 1.0, whose first matrix is its last one too."""
    return config.d_model**-0.5 if config.scale_decoder_outputs else None


def t5_values(config: Any) -> Values:
    if config.feed_forward_proj not in ("relu", "gated-gelu"):
        raise refuse(config, f"its feed-forward layers are {config.feed_forward_proj}")
    if config.relative_attention_max_distance != T5_DISTANCE:
        raise refuse(
            config, f"it tells positions apart up to {config.relative_attention_max_distance}, not {T5_DISTANCE}"
        )
    return {
        "block_count": config.num_layers,
        "decoder_block_count": config.num_decoder_layers,
        "context_length": getattr(config, "n_positions", 512),
        "embedding_length": config.d_model,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.num_heads,
        "attention.key_length": config.d_kv,
        "attention.value_length": config.d_kv,
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
        "attention.relative_buckets_count": config.relative_attention_num_buckets,
        "decoder_start_token_id": config.decoder_start_token_id,
        "vocab_size": config.vocab_size,
    }
