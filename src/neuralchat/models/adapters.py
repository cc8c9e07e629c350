"""Adapter methods by name: each a PEFT config made from the settings and bounded by the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neuralchat.errors import AdapterError

DEFAULT_METHOD = "lora"


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What a user chose; the defaults are those of the original NeuralChat."""

    method: str = DEFAULT_METHOD
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_target_modules: tuple[str, ...] = ()
    lora_all_linear: bool = False
    adapter_layers: int = 30
    adapter_len: int = 10
    num_virtual_tokens: int = 10
    ptun_hidden_size: int = 1024


def lora_config(settings: AdapterSettings, _model: Any) -> Any:
    from peft import LoraConfig

    targets: Any = list(settings.lora_target_modules) or None
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear" if settings.lora_all_linear else targets,
        bias="none",
        task_type="CAUSAL_LM",
    )


def ptun_config(settings: AdapterSettings, _model: Any) -> Any:
    from peft import PromptEncoderConfig

    return PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=settings.num_virtual_tokens,
        encoder_hidden_size=settings.ptun_hidden_size,
    )


def prefix_config(settings: AdapterSettings, _model: Any) -> Any:
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=settings.num_virtual_tokens)


def prompt_config(settings: AdapterSettings, _model: Any) -> Any:
    from peft import PromptTuningConfig

    return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=settings.num_virtual_tokens)


def llama_adapter_config(settings: AdapterSettings, model: Any) -> Any:
    from peft import AdaptionPromptConfig

    depth = model.config.num_hidden_layers
    return AdaptionPromptConfig(
        task_type="CAUSAL_LM",
        adapter_len=settings.adapter_len,
        adapter_layers=min(settings.adapter_layers, depth),
    )


METHODS: dict[str, Callable[[AdapterSettings, Any], Any]] = {
    "lora": lora_config,
    "ptun": ptun_config,
    "prefix": prefix_config,
    "prompt": prompt_config,
    "llama_adapter": llama_adapter_config,
}


def add_adapter(model: Any, settings: AdapterSettings) -> Any:
    """A PeftModel with fp32 adapter weights. Raises AdapterError where the model cannot take the method."""
    from peft import get_peft_model

    try:
        adapted = get_peft_model(model, METHODS[settings.method](settings, model))
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        hint = "Name the layers with --lora_target_modules, or choose" if settings.method == "lora" else "Choose"
        raise AdapterError(
            f"--peft {settings.method} does not work for {type(model).__name__}: {error}\n"
            f"{hint} another of: {', '.join(METHODS)}"
        ) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted
