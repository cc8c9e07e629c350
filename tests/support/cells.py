"""The cells of the support matrix: which family is tested with which method."""

from __future__ import annotations

from typing import Any

from neuralchat.config.arguments import TuningArguments
from neuralchat.config.methods import METHODS
from support.small_models import ALL_FAMILIES

# LLaMA-Adapter in PEFT knows the LLaMA family, Mistral and GPT-2.
TAKES_LLAMA_ADAPTER = ("llama", "llama_mha", "llama_bias", "mistral", "gpt2")
LORA_VARIANTS = ("lora_dora", "lora_rslora", "lora_pissa", "lora_all_linear")
CELLS = [
    (family, method)
    for family in ALL_FAMILIES
    for method in (*METHODS, *LORA_VARIANTS)
    if method != "llama_adapter" or family in TAKES_LLAMA_ADAPTER
]
# Proven with real processes in tests/distributed/test_ranks.py.
DISTRIBUTED_CELLS = {("llama", "lora"), ("llama", "prompt"), ("mpt", "lora"), ("flan_t5", "lora")}


def settings_of(method: str) -> TuningArguments:
    variants: dict[str, dict[str, Any]] = {
        "lora_dora": {"lora_dora": True}, "lora_rslora": {"lora_rslora": True}, "lora_pissa": {"lora_init": "pissa"},
        "lora_all_linear": {"lora_all_linear": True},
    }  # fmt: skip
    return TuningArguments(
        peft="lora" if method in variants else method, lora_dropout=0.0, num_virtual_tokens=5, ptun_hidden_size=16,
        adapter_len=4, adapter_layers=30, **variants.get(method, {}),
    )  # fmt: skip
