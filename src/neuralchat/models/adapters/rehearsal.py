"""Before any weight is loaded: can this model be tuned by this method, and will what is saved be read again?

Tried on skeletons without memory, so it takes a moment for models of any size.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from neuralchat.config.arguments import TuningArguments
from neuralchat.errors import AdapterError, ModelError
from neuralchat.models.adapters.build import add_adapter, refusal
from neuralchat.models.adapters.files import check_config
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.loading.base_model import parameter_counts
from neuralchat.models.quantization.choosing import nothing_to_quantize, quantizable_layers

StateShapes = dict[str, tuple[int, ...]]
WHAT_WORKS = (
    "Models that continue a text can be tuned (LLaMA, Mistral, Qwen, Gemma, Phi, GPT and the like), and models that "
    "encode one and answer it (T5 and the like); docs/support.md lists them"
)


def rehearse(config: Any, tuning: TuningArguments) -> tuple[int, int] | None:
    """(trained, all) parameters; None where it cannot be rehearsed.

    Raises ModelError or AdapterError where training a model of this configuration could not begin or be used.
    """
    # Code that comes with a checkpoint is not run for a rehearsal.
    if not type(config).__module__.startswith("transformers."):
        return None
    skeleton = skeleton_of(config)
    check_direction(config)
    if tuning.bits is not None and not quantizable_layers(skeleton):
        raise ModelError(nothing_to_quantize(f"a {config.model_type} model", tuning.bits))
    # PiSSA computes from weights; how matrices begin changes nothing of what is asked here.
    begun_plainly = replace(tuning, lora_init="default")
    try:
        with torch.device("meta"):
            adapted = add_adapter(skeleton, begun_plainly, tell=lambda _text: None)
    except AdapterError as error:
        # What needs numbers cannot be rehearsed; PEFT will be asked again with the weights.
        if isinstance(error.__cause__, NotImplementedError):
            return None
        raise
    if tuning.method.peft_type == "LORA":
        check_start(adapted, tuning)
        check_readable(config, adapted)
    return parameter_counts(adapted)


def check_start(adapted: Any, tuning: TuningArguments) -> None:
    """Raise AdapterError where PiSSA would take the beginning of LoRA out of layers that have no weight."""
    experts = adapted.peft_config[adapted.active_adapter].target_parameters
    if tuning.lora_init == "pissa" and experts:
        named = ", ".join(sorted(experts))
        raise refusal(adapted.get_base_model(), tuning, f"PEFT has no PiSSA for experts that are parameters ({named})")


def skeleton_of(config: Any) -> Any:
    """The model of a configuration, without memory. Raises ModelError where transformers has none that writes text."""
    import transformers

    kind: Any
    if is_encoder_decoder(config):
        kind, classes = transformers.AutoModelForSeq2SeqLM, transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    else:
        kind, classes = transformers.AutoModelForCausalLM, transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in classes:
        raise ModelError(
            f"transformers has no {config.model_type} model that writes text from text alone. {WHAT_WORKS}"
        )
    try:
        with torch.device("meta"):
            return kind.from_config(copy.deepcopy(config))
    except Exception as error:  # the class of any family, on a configuration from elsewhere
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ModelError(
            f"config.json describes a {config.model_type} model that cannot be built ({reason})"
        ) from error


def check_direction(config: Any) -> None:
    """Raise ModelError for an encoder, whose every token sees what comes after it: it would copy its targets."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    reads_both_ways = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if reads_both_ways and not is_encoder_decoder(config):
        raise ModelError(
            f"a {config.model_type} model reads a text in both directions and cannot continue one. {WHAT_WORKS}"
        )
    if is_encoder_decoder(config) and config.decoder_start_token_id is None:
        raise ModelError(
            "config.json has no decoder_start_token_id, with which an encoder-decoder model begins its answers; set it "
            "to the id that the model was trained with (often that of its padding or language token)"
        )


def check_readable(config: Any, adapted: Any) -> None:
    """Raise AdapterError unless the adapter's configuration, as it will be saved, is read here and builds it again."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    name = adapted.active_adapter
    saved = json.loads(json.dumps(adapted.peft_config[name].to_dict(), default=as_plain_list))
    check_config(Path("adapter_config.json"), saved)
    with torch.device("meta"):
        again = get_peft_model(skeleton_of(config), LoraConfig(**without_notes_of_peft(saved)))
    first, second = (shapes(get_peft_model_state_dict(m, save_embedding_layers=False)) for m in (adapted, again))
    if first != second:
        different = sorted(n for n in first.keys() | second.keys() if first.get(n) != second.get(n))
        raise AdapterError(
            f"PEFT would not read back what it saves for a {config.model_type} model with these layers: "
            f"{len(different)} weight(s) differ, such as {different[0]}. Name other layers with --lora_target_modules"
        )


def as_plain_list(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def without_notes_of_peft(saved: dict[str, Any]) -> dict[str, Any]:
    """The fields that LoraConfig takes: PEFT notes its version and the base model beside them."""
    return {name: value for name, value in saved.items() if name not in ("peft_type", "peft_version", "auto_mapping")}


def shapes(state: dict[str, torch.Tensor]) -> StateShapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
