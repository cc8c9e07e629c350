"""A model with the adapter of one of the tuning methods, which config/methods.py describes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from neuralchat.config.arguments import TuningArguments
from neuralchat.config.command.suggestions import did_you_mean, nearest
from neuralchat.config.methods import METHODS, is_pattern
from neuralchat.console import note
from neuralchat.errors import AdapterError
from neuralchat.models.families.table import family_of

# PEFT's own word for what is --lora_all_linear here; people write it in the place of names.
ALL_LINEAR = "all-linear"
WHOLE_PATHS = " A regular expression must match the whole path of a layer, as '.*\\.(q_proj|v_proj)' does."


def base_model_of(model: Any) -> Any:
    """The transformers model inside a PeftModel; a model without an adapter is returned as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def adapter_off(model: Any) -> Iterator[Any]:
    """Within, the transformers model inside a PeftModel as if it had no adapter.

    PEFT trains all of an adapter that it switches on again; here what was not trained before is not trained after.
    """
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield base_model_of(model)
    finally:
        for parameter, was_trained in trained:
            parameter.requires_grad_(was_trained)


def add_adapter(
    model: Any, tuning: TuningArguments, trained_token_ids: Collection[int] = (), *, tell: Callable[[str], None] = note
) -> Any:
    """A PeftModel with fp32 adapter weights, or the model itself where the method trains all of it.

    `trained_token_ids`: rows of the embedding that are trained besides, those of added special tokens. `tell` is given
    what was decided for the user. Raises AdapterError where the model cannot take the method.
    """
    method = tuning.method
    if method.make_config is None:
        return model.requires_grad_(True)
    from peft import get_peft_model

    if list(tuning.lora_target_modules or ()) == [ALL_LINEAR]:
        tuning = replace(tuning, lora_target_modules=[], lora_all_linear=True)
    kinds = method.model_types
    if kinds is not None and model.config.model_type not in kinds:
        raise refusal(model, tuning, f"PEFT has it for {', '.join(kinds)}, this is {model.config.model_type}")
    try:
        named, listed = with_targets(tuning, model) if method.name == "lora" else (tuning, "")
        config = method.make_config(named, model, trained_token_ids, family_of(model.config))
        if method.name == "lora":
            experts = target_experts(config, model, all_linear=tuning.lora_all_linear, tell=tell)
            if listed:
                more = f", and experts: {', '.join(experts)}" if experts else ""
                tell(
                    f"LoRA is put into all linear layers but the head: {listed}{more} (--lora_target_modules names "
                    "others)"
                )
        with warnings.catch_warnings():
            # PEFT corrects itself for GPT-2's layers, and says so for each of them.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
            adapted = get_peft_model(model, config)
    except (ValueError, KeyError, AttributeError, NotImplementedError, TypeError) as error:
        unmatched = any(map(is_pattern, tuning.lora_target_modules)) and "not found" in str(error)
        raise refusal(model, tuning, f"{error}{WHOLE_PATHS if unmatched else ''}") from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def with_targets(tuning: TuningArguments, model: Any) -> tuple[TuningArguments, str]:
    """`tuning` with the layers that get LoRA named, and a list of them where neither the user nor PEFT names them."""
    from neuralchat.models.adapters.targets import known_targets, linear_targets, peft_takes_all_linear

    if tuning.lora_target_modules:
        check_named_targets(tuning.lora_target_modules, model)
        return tuning, ""
    if tuning.lora_all_linear and peft_takes_all_linear(model):
        return tuning, ""
    if not tuning.lora_all_linear and (known := known_targets(model)) is not None:
        return replace(tuning, lora_target_modules=known), ""
    # PEFT may know layers as such that are not seen to be linear here.
    targets = linear_targets(model)
    return (replace(tuning, lora_target_modules=targets) if targets else tuning), ", ".join(targets)


def check_named_targets(names: Sequence[str], model: Any) -> None:
    """Raise AdapterError where one of several names is that of no layer: PEFT leaves it out without a word."""
    from neuralchat.models.adapters.targets import expert_parameters, is_named, linear_names

    unknown = [name for name in names if not is_pattern(name) and not is_named(model, name)]
    if not unknown:
        return
    known = sorted({name.rpartition(".")[2] for name in linear_names(model)})
    experts = {name.rpartition(".")[2] for name in expert_parameters(model)}
    problems = [
        f"--lora_target_modules {name}: "
        + (
            "these are experts, which are parameters and no layers; --lora_all_linear has LoRA on them"
            if name.rpartition(".")[2] in experts
            else f"{type(model).__name__} has no layer of this name{did_you_mean(nearest(name, known), '')}"
        )
        for name in unknown
    ]
    raise AdapterError("\n".join([*problems, f"Its linear layers: {', '.join(known)}"]))


def target_experts(config: Any, model: Any, *, all_linear: bool, tell: Callable[[str], None]) -> list[str]:
    """Let a LoraConfig for all linear layers reach experts that are parameters, and tell what PEFT cannot do there.

    Returns the names of the experts.
    """
    from neuralchat.models.adapters.targets import expert_parameters, routers_of
    from neuralchat.models.compat.peft import name_parameters, targeted_parameters

    experts = targeted_parameters(config, model)
    if all_linear and (routers := routers_of(experts)):
        # PEFT counts what chooses the experts among them, because it once was a linear layer.
        name_parameters(config, model)
        config.target_parameters -= routers
        experts = [name for name in experts if name not in routers]
    if all_linear and not experts and (experts := expert_parameters(model)):
        config.target_parameters = experts
    if experts and config.use_dora:
        raise ValueError(f"PEFT has no DoRA for experts that are parameters ({', '.join(experts)})")
    if experts and config.lora_dropout:
        tell(f"--lora_dropout {config.lora_dropout} becomes 0: PEFT has no dropout for experts ({', '.join(experts)})")
        config.lora_dropout = 0.0
    return experts


def refusal(model: Any, tuning: TuningArguments, reason: str) -> AdapterError:
    method = tuning.method
    hint = f"{method.remedy}, or choose" if method.remedy else "Choose"
    others = ", ".join(name for name in METHODS if name != method.name)
    return AdapterError(
        f"--peft {method.name} does not work for {type(model).__name__}: {reason}\n{hint} another of: {others}"
    )
