"""A model with the adapter of one of the tuning methods, which config/methods.py describes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from neuralchat.config.arguments import TuningArguments
from neuralchat.config.methods import METHODS
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
    try:
        adapted = get_peft_model(model, method.make_config(tuning, model, trained_token_ids, family_of(model.config)))
    except (ValueError, KeyError, AttributeError, NotImplementedError, TypeError) as error:
        raise refusal(model, tuning, str(error)) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def refusal(model: Any, tuning: TuningArguments, reason: str) -> AdapterError:
    method = tuning.method
    hint = f"{method.remedy}, or choose" if method.remedy else "Choose"
    others = ", ".join(name for name in METHODS if name != method.name)
    return AdapterError(
        f"--peft {method.name} does not work for {type(model).__name__}: {reason}\n{hint} another of: {others}"
    )
