"""A model with the adapter of one of the tuning methods, which config/methods.py describes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from neuralchat.config.arguments import TuningArguments
from neuralchat.config.methods import METHODS
from neuralchat.console import note
from neuralchat.errors import AdapterError
from neuralchat.models.families.table import family_of


def base_model_of(model: Any) -> Any:
    """The transformers model inside a PeftModel; a model without an adapter is returned as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def add_adapter(model: Any, tuning: TuningArguments, trained_token_ids: Collection[int] = ()) -> Any:
    """A PeftModel with fp32 adapter weights, or the model itself where the method trains all of it.

    `trained_token_ids`: rows of the embedding that are trained besides, those of added special tokens. Raises
    AdapterError where the model cannot take the method.
    """
    method = tuning.method
    if method.make_config is None:
        return model.requires_grad_(True)
    from peft import get_peft_model

    kinds = method.model_types
    if kinds is not None and model.config.model_type not in kinds:
        raise refusal(model, tuning, f"PEFT has it for {', '.join(kinds)}, this is {model.config.model_type}")
    if method.name == "lora":
        tuning = with_targets(tuning, model)
    try:
        config = method.make_config(tuning, model, trained_token_ids, family_of(model.config))
        if method.name == "lora":
            drop_no_expert(config, model)
        adapted = get_peft_model(model, config)
    except (ValueError, KeyError, AttributeError, NotImplementedError, TypeError) as error:
        raise refusal(model, tuning, str(error)) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def with_targets(tuning: TuningArguments, model: Any) -> TuningArguments:
    """`tuning` with the layers that get LoRA named, where neither the user nor PEFT names them."""
    from neuralchat.models.adapters.targets import known_targets, linear_targets, other_linears

    if tuning.lora_target_modules:
        return tuning
    if tuning.lora_all_linear:
        # PEFT's own word for all linear layers brings experts with it, but also what only looks like a linear layer.
        if not other_linears(model):
            return tuning
        return replace(tuning, lora_all_linear=False, lora_target_modules=linear_targets(model))
    targets = known_targets(model)
    if targets is None:
        targets = linear_targets(model)
        named = ", ".join(targets)
        note(f"LoRA is put into all linear layers but the head: {named} (--lora_target_modules names others)")
    return replace(tuning, lora_target_modules=targets)


def drop_no_expert(config: Any, model: Any) -> None:
    """Take dropout out of a LoraConfig that targets experts, for which PEFT has none."""
    from neuralchat.models.compat.peft import targeted_parameters

    if config.lora_dropout and (experts := targeted_parameters(config, model)):
        note(f"--lora_dropout {config.lora_dropout} becomes 0: PEFT has no dropout for experts ({', '.join(experts)})")
        config.lora_dropout = 0.0


def refusal(model: Any, tuning: TuningArguments, reason: str) -> AdapterError:
    method = tuning.method
    hint = f"{method.remedy}, or choose" if method.remedy else "Choose"
    others = ", ".join(name for name in METHODS if name != method.name)
    return AdapterError(
        f"--peft {method.name} does not work for {type(model).__name__}: {reason}\n{hint} another of: {others}"
    )
