"""Small models of the families that transformers has, by its own names for them, with what each needs of its own.

Every part that makes a family another one is small enough to matter: windows are shorter than the examples, caps bite.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "vocab_size": 97,
}
WINDOW: dict[str, Any] = {"sliding_window": 24}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
# Experts in groups, after layers without any.
ROUTED: dict[str, Any] = {
    **EXPERTS,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": None,
}
ROTARY = {"rotary_dim": 4}
# Embeddings of each layer's own.
PER_LAYER: dict[str, Any] = {
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 97,
    "layer_types": ["sliding_attention", "full_attention"],
}
MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}

# model_type -> what its configuration has besides SIZES. None leaves a size to the family.
PACKED: dict[str, dict[str, Any]] = {
    "afmoe": EXPERTS,
    "apertus": {},
    "arcee": {},
    "axk1": {**ROUTED, **LATENT},
    "biogpt": {},
    "bitnet": {},
    "codegen": ROTARY,
    "cohere": {},
    "cohere2": WINDOW,
    "cohere2_moe": {**EXPERTS, **WINDOW},
    "cwm": {**WINDOW, "bos_token_id": 1},
    "deepseek_v2": {**ROUTED, **LATENT},
    "deepseek_v3": {**ROUTED, **LATENT},
    "diffllama": {},
    "dots1": ROUTED,
    "ernie4_5": {},
    "ernie4_5_moe": EXPERTS,
    "exaone4": WINDOW,
    "exaone_moe": EXPERTS,
    "flex_olmo": EXPERTS,
    "gemma": {},
    "gemma2": {**WINDOW, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.0},
    "gemma3_text": WINDOW,
    "gemma3n_text": {**WINDOW, **PER_LAYER, "laurel_rank": 4, "activation_sparsity_pattern": [0.0, 0.0]},
    "gemma4_text": {**WINDOW, **PER_LAYER, "global_head_dim": 8},
    "glm": {},
    "glm4": {},
    "glm4_moe": ROUTED,
    "glm4_moe_lite": {**ROUTED, **LATENT},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neox": {},
    "gpt_oss": {**EXPERTS, **WINDOW},
    "gptj": ROTARY,
    "granite": {"logits_scaling": 4.0},
    "granite_swa": WINDOW,
    "granitemoe": {**EXPERTS, "logits_scaling": 4.0},
    "granitemoeshared": EXPERTS,
    "helium": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": EXPERTS,
    "hyperclovax": {},
    "internlm3": {},
    "jais2": {},
    "jetmoe": EXPERTS,
    "llama": {},
    "minicpm3": LATENT,
    "minimax_m2": EXPERTS,
    "ministral": WINDOW,
    "ministral3": {},
    "mistral": WINDOW,
    "mixtral": EXPERTS,
    "modernbert-decoder": {"bos_token_id": 1},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": WINDOW,
    "olmoe": EXPERTS,
    "opt": {},
    "persimmon": {},
    "phi": {},
    "phi3": WINDOW,
    "phimoe": {**EXPERTS, **WINDOW},
    "qwen2": {},
    "qwen2_moe": EXPERTS,
    "qwen3": {},
    "qwen3_moe": EXPERTS,
    "seed_oss": {},
    "smollm3": {},
    "solar_open": ROUTED,
    "stablelm": {},
    "starcoder2": WINDOW,
    "vaultgemma": WINDOW,
    "youtu": LATENT,
}
# Of which something else than attention through the interface looks at other tokens.
PADDED: dict[str, dict[str, Any]] = {
    "bart": {"decoder_layers": 2, "encoder_layers": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None},
    "bloom": {},
    "doge": {},
    "falcon": {"head_dim": None},
    "falcon_mamba": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 24},
    "granitemoehybrid": {**EXPERTS, **MAMBA, "layer_types": ["mamba", "attention"]},
    "jamba": {
        **EXPERTS,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {**EXPERTS, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "llama4_text": EXPERTS,
    "mamba": {},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8},
    "minimax": EXPERTS,
    "olmo_hybrid": {},
    "openai-gpt": {},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {**EXPERTS, "layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "rwkv": {},
    "xglm": {},
}
FAMILIES = {**PACKED, **PADDED}
# What tests/contract/test_families.py proves of each with LoRA as it comes.
FAMILY_PROPERTIES: dict[str, list[str]] = {
    "family packed": list(PACKED),
    "family padded": list(PADDED),
    "family merged": list(FAMILIES),
    "family saved plain": list(FAMILIES),
    "family answers cached": list(FAMILIES),
}


def family_config(name: str, **more: Any) -> Any:
    given = {**SIZES, **FAMILIES[name], **more}
    # The families that count heads by themselves do not take None.
    return AutoConfig.for_model(name, **{key: x for key, x in given.items() if key != "head_dim" or x is not None})


def family_model(name: str, seed: int = 0) -> Any:
    """An fp32 model in evaluation mode, with weights large enough that every part of it matters to the logits."""
    torch.manual_seed(seed)
    config = family_config(name)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval().requires_grad_(False)
