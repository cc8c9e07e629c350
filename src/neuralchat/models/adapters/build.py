"""Adapter methods by name: each a PEFT config made from the settings and bounded by the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neuralchat.errors import AdapterError
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.families.table import family_of

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
    lora_dora: bool = False
    lora_rslora: bool = False
    lora_init: str = "default"
    # Rows of the embedding that are trained besides: those of added special tokens.
    trained_token_ids: tuple[int, ...] = ()


def base_model_of(model: Any) -> Any:
    """transformers' model inside a PeftModel; a model without an adapter is its own."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def task_type(model: Any) -> str:
    return "SEQ_2_SEQ_LM" if is_encoder_decoder(model.config) else "CAUSAL_LM"


def lora_config(settings: AdapterSettings, model: Any) -> Any:
    from peft import LoraConfig

    targets: Any = list(settings.lora_target_modules) or None
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear" if settings.lora_all_linear else targets,
        use_dora=settings.lora_dora,
        use_rslora=settings.lora_rslora,
        init_lora_weights=LORA_INITS[settings.lora_init],
        trainable_token_indices=list(settings.trained_token_ids) or None,
        bias="none",
        task_type=task_type(model),
    )


def ia3_config(_settings: AdapterSettings, model: Any) -> Any:
    from peft import IA3Config

    return IA3Config(task_type=task_type(model), **(family_of(model.config).ia3_targets or {}))


def prompt_sizes(model: Any) -> dict[str, Any]:
    return family_of(model.config).prompt_sizes(model.config)


def ptun_config(settings: AdapterSettings, model: Any) -> Any:
    from peft import PromptEncoderConfig

    return PromptEncoderConfig(
        task_type=task_type(model),
        num_virtual_tokens=settings.num_virtual_tokens,
        encoder_hidden_size=settings.ptun_hidden_size,
        **prompt_sizes(model),
    )


def prefix_config(settings: AdapterSettings, model: Any) -> Any:
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(
        task_type=task_type(model), num_virtual_tokens=settings.num_virtual_tokens, **prompt_sizes(model)
    )


def prompt_config(settings: AdapterSettings, model: Any) -> Any:
    from peft import PromptTuningConfig

    return PromptTuningConfig(
        task_type=task_type(model), num_virtual_tokens=settings.num_virtual_tokens, **prompt_sizes(model)
    )


def llama_adapter_config(settings: AdapterSettings, model: Any) -> Any:
    from peft import AdaptionPromptConfig

    depth = getattr(model.config, "num_hidden_layers", settings.adapter_layers)
    return AdaptionPromptConfig(
        task_type=task_type(model),
        adapter_len=settings.adapter_len,
        adapter_layers=min(settings.adapter_layers, depth),
    )


METHODS: dict[str, Callable[[AdapterSettings, Any], Any] | None] = {
    "lora": lora_config,
    "ptun": ptun_config,
    "prefix": prefix_config,
    "prompt": prompt_config,
    "llama_adapter": llama_adapter_config,
    "ia3": ia3_config,
    # All weights are trained, nothing is added.
    "none": None,
}
# Methods whose result can be folded into the base weights.
MERGEABLE = ("lora", "ia3")
LORA_INITS: dict[str, Any] = {"default": True, "gaussian": "gaussian", "pissa": "pissa"}


def add_adapter(model: Any, settings: AdapterSettings) -> Any:
    """A PeftModel with fp32 adapter weights, or for "none" the model itself, all of it trained.

    Raises AdapterError where the model cannot take the method.
    """
    make_config = METHODS[settings.method]
    if make_config is None:
        return model.requires_grad_(True)
    from peft import get_peft_model

    try:
        adapted = get_peft_model(model, make_config(settings, model))
    except (ValueError, KeyError, AttributeError, NotImplementedError, TypeError) as error:
        hint = "Name the layers with --lora_target_modules, or choose" if settings.method == "lora" else "Choose"
        others = ", ".join(name for name in METHODS if name != settings.method)
        raise AdapterError(
            f"--peft {settings.method} does not work for {type(model).__name__}: {error}\n{hint} another of: {others}"
        ) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted
