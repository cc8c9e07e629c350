"""An adapter directory, looked at before PEFT reads it: what it may say, and that its sizes are those of its weights.

PEFT builds what adapter_config.json describes and then fills it. A configuration may also name modules to import, data
to compute from, and patterns to search with. Only what describes one of the methods we know is let through.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from neuralchat.config.checks import is_safe_pattern
from neuralchat.config.methods import METHODS
from neuralchat.errors import AdapterError
from neuralchat.models.loading.checkpoint_files import Shapes, error_line, read_json_object, safetensors_shapes
from neuralchat.runs.directory import ADAPTER

PICKLED = "adapter_model.bin"
MAX_NAMES = 10_000


def is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 1 << 31


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_NAMES and all(isinstance(name, str) for name in value)


def is_targets(value: Any) -> bool:
    return is_names(value) or is_safe_pattern(value)


def is_layers(value: Any) -> bool:
    indices = value if isinstance(value, list) else [value]
    return len(indices) <= MAX_NAMES and all(is_bool(i) is False and isinstance(i, int) and i >= 0 for i in indices)


def is_pattern_numbers(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_NAMES
        and all(is_safe_pattern(name) and is_number(number) and number > 0 for name, number in value.items())
    )


def is_token_ids(value: Any) -> bool:
    lists = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(ids, list) and all(id_ == 0 or is_size(id_) for id_ in ids) for ids in lists)


def is_initialization(value: Any) -> bool:
    # Others compute from the base weights or from data while they are loaded.
    return isinstance(value, bool) or value in ("gaussian", "pissa")


def one_of(*allowed: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in allowed


Checks = dict[str, Callable[[Any], bool]]
COMMON: Checks = {
    "peft_type": is_text, "task_type": one_of("CAUSAL_LM", "SEQ_2_SEQ_LM"), "base_model_name_or_path": is_text,
    "revision": is_text, "inference_mode": is_bool, "peft_version": is_text, "modules_to_save": is_names,
}  # fmt: skip
TARGETS: Checks = {"target_modules": is_targets, "exclude_modules": is_targets, "fan_in_fan_out": is_bool}
PROMPTS: Checks = {
    "num_virtual_tokens": is_size, "token_dim": is_size, "num_transformer_submodules": is_size,
    "num_attention_heads": is_size, "num_layers": is_size,
}  # fmt: skip
# peft_type -> what its configuration may say where it says something (not null, false or empty).
ALLOWED_FIELDS: dict[str, Checks] = {
    "LORA": {
        **TARGETS, "r": is_size, "lora_alpha": is_number, "lora_dropout": is_share, "use_rslora": is_bool,
        "bias": one_of("none", "all", "lora_only"), "init_lora_weights": is_initialization, "use_dora": is_bool,
        "layers_to_transform": is_layers, "layers_pattern": is_targets, "rank_pattern": is_pattern_numbers,
        "alpha_pattern": is_pattern_numbers, "trainable_token_indices": is_token_ids, "lora_bias": is_bool,
        "ensure_weight_tying": is_bool, "target_parameters": is_names,
        # Defaults that are written down but only used with what is refused.
        "megatron_core": one_of("megatron.core"), "qalora_group_size": is_size,
    },
    "IA3": {**TARGETS, "feedforward_modules": is_targets, "init_ia3_weights": is_bool},
    "P_TUNING": {
        **PROMPTS, "encoder_reparameterization_type": one_of("MLP", "LSTM"), "encoder_hidden_size": is_size,
        "encoder_num_layers": is_size, "encoder_dropout": is_share,
    },
    "PREFIX_TUNING": {
        **PROMPTS, "encoder_hidden_size": is_size, "prefix_projection": is_bool, "init_weights": one_of("zero")
    },
    "PROMPT_TUNING": {
        **PROMPTS, "prompt_tuning_init": one_of("RANDOM", "SAMPLE_VOCAB", "TEXT"), "prompt_tuning_init_text": is_text,
        "tokenizer_name_or_path": is_text,
    },
    "ADAPTION_PROMPT": {"target_modules": is_text, "adapter_len": is_size, "adapter_layers": is_size},
}  # fmt: skip
# What no default can stand for.
NEEDED = {"LORA": ("r", "lora_alpha")}


def check_adapter_files(directory: Path) -> dict[str, Any]:
    """What adapter_config.json says, once it is harmless and agrees with the weights beside it.

    Raises AdapterError or ModelError.
    """
    path = directory / "adapter_config.json"
    if not path.is_file():
        raise AdapterError(f"{directory} has no adapter_config.json, so it holds no adapter")
    config = read_json_object(path)
    check_config(path, config)
    weights = directory / ADAPTER
    if not weights.is_file():
        raise AdapterError(missing_weights(directory))
    shapes = safetensors_shapes(weights)
    if not shapes:
        raise AdapterError(f"{weights} holds no weights")
    if problem := size_problem(config, shapes):
        raise AdapterError(f"{path} does not belong to {weights.name}: {problem}")
    return config


def missing_weights(directory: Path) -> str:
    if not (directory / PICKLED).exists():
        return f"{directory} has no {ADAPTER}"
    return (
        f"{directory} has its weights in {PICKLED}, a pickle, which can run code when it is read; it is not read here. "
        f"Convert it where you trust it: load it with PEFT's PeftModel.from_pretrained and save it with "
        f"save_pretrained, which writes {ADAPTER}"
    )


def check_config(path: Path, config: dict[str, Any]) -> None:
    method = config.get("peft_type")
    if method is None:
        raise AdapterError(f"{path} is damaged: it has no peft_type, which says what kind of adapter it is")
    if not isinstance(method, str) or method not in ALLOWED_FIELDS:
        raise AdapterError(f"{path}: peft_type is {shown(method)}; allowed are {', '.join(ALLOWED_FIELDS)}")
    missing = [name for name in NEEDED.get(method, ()) if config.get(name) is None]
    if missing:
        raise AdapterError(f"{path} does not say {missing[0]}, which decides what the weights mean")
    checks = {**COMMON, **ALLOWED_FIELDS[method]}
    for name, value in config.items():
        if value is None or value is False or value in ({}, [], ""):
            continue
        if name not in checks:
            raise AdapterError(
                f"{path}: {shown(name)} is {shown(value)}; for {method} it must be left out: what it asks for is not "
                "part of an adapter that is only loaded"
            )
        if not checks[name](value):
            raise AdapterError(f"{path}: {name} cannot be {shown(value)} in an adapter that is loaded here")


def shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def size_problem(config: dict[str, Any], shapes: Shapes) -> str | None:
    """Which size in the configuration differs from the weights; PEFT would allocate that size before it noticed."""
    method = config["peft_type"]
    if method in [row.peft_type for row in METHODS.values() if row.virtual_tokens]:
        return prompt_problem(config, shapes)
    if method == "ADAPTION_PROMPT":
        prompts = [shape for name, shape in shapes.items() if name.endswith("adaption_prompt")]
        lengths = {shape[1] for shape in prompts if len(shape) == 3}
        if config.get("adapter_layers") != len(prompts):
            return f"adapter_layers is {config.get('adapter_layers')}, the weights are of {len(prompts)} layer(s)"
        return unlike("adapter_len", config.get("adapter_len"), lengths)
    if method == "LORA":
        ranks = {shape[0] for name, shape in shapes.items() if ".lora_A." in name and shape}
        ranks |= {shape[0] for name, shape in shapes.items() if "lora_embedding_A" in name and shape}
        if not is_size(config.get("r")):
            return unlike("r", config.get("r"), ranks)
        wanted = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
        if config.get("target_parameters"):
            # The matrices of all experts of a layer lie side by side: a multiple of the rank.
            sizes = [rank for rank in wanted if is_size(rank)]
            ranks = {max((rank for rank in sizes if found % rank == 0), default=found) for found in ranks}
        if ranks and not set(wanted) >= ranks:
            return unlike("r", config.get("r"), ranks)
        # A pattern may give every layer another rank than r.
        too_large = [rank for rank in wanted if not is_size(rank) or rank > max(ranks, default=1)]
        return unlike("r", too_large[0], ranks) if too_large else None
    return None


def prompt_problem(config: dict[str, Any], shapes: Shapes) -> str | None:
    shape = shapes.get("prompt_embeddings")
    if shape is None or len(shape) != 2:
        return "there is no table prompt_embeddings in it"
    sizes = {name: config.get(name) for name in ("num_virtual_tokens", "token_dim", "num_layers")}
    missing = [name for name, value in sizes.items() if not is_size(value)]
    if missing:
        return f"{missing[0]} is missing" if sizes[missing[0]] is None else f"{missing[0]} is no number"
    submodules = config.get("num_transformer_submodules") or (2 if config.get("task_type") == "SEQ_2_SEQ_LM" else 1)
    count, width = config["num_virtual_tokens"], config["token_dim"]
    prefix = config["peft_type"] == "PREFIX_TUNING"
    # Prefix tuning gives every stack the same keys and values; the others give each its own prompt.
    if problem := unlike("num_virtual_tokens", count if prefix else count * submodules, {shape[0]}):
        return problem
    return unlike("token_dim", width * config["num_layers"] * 2 if prefix else width, {shape[1]})


def unlike(name: str, value: Any, there: Iterable[int]) -> str | None:
    known = sorted(there)
    if value in known:
        return None
    return f"{name} gives a size of {shown(value)}, the weights have {', '.join(map(str, known[:5])) or 'none'}"


def check_loaded(model: Any, directory: Path, shapes: Shapes, name: str = "default") -> None:
    """Raise AdapterError unless every weight of the file went into the model, and every adapter weight came from it."""
    import torch
    from peft import get_peft_model_state_dict

    wanted = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    parts = model.state_dict().keys()
    unexpected = sorted(name for name in shapes.keys() - wanted.keys() if name not in parts)
    if unexpected:
        raise AdapterError(misfit(model, directory, "holds weights for parts the model does not have", unexpected))
    if missing := sorted(wanted.keys() - shapes.keys()):
        raise AdapterError(misfit(model, directory, "lacks weights that the model would have at random", missing))
    broken = sorted(name for name, tensor in wanted.items() if not torch.isfinite(tensor).all())
    if broken:
        raise AdapterError(
            f"{directory / ADAPTER}: {broken[0]} holds numbers that are not finite; every answer would be chance"
        )


def misfit(model: Any, directory: Path, what: str, names: Sequence[str]) -> str:
    base = model.get_base_model()
    return (
        f"the adapter of {directory} does not fit its base model {base.name_or_path}: it {what}, {len(names)} in all, "
        f"such as {shown(names[0])}. Is it the base model that the adapter was trained on?"
    )


def load_adapter(model: Any, directory: Path) -> Any:
    """`model` with the adapter of a directory in it, every weight of which was read from the file.

    Raises AdapterError or ModelError.
    """
    from peft import PeftModel

    check_adapter_files(directory)
    try:
        with warnings.catch_warnings():
            # check_loaded makes an error of it.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            loaded = PeftModel.from_pretrained(model, str(directory))
    except Exception as error:  # what PEFT raises for a foreign adapter is not declared anywhere
        raise unfit(model, directory, error) from error
    check_loaded(loaded, directory, safetensors_shapes(directory / ADAPTER))
    return loaded


def unfit(base: Any, directory: Path, error: Exception) -> AdapterError:
    return AdapterError(
        f"the adapter of {directory} does not fit its base model {base.name_or_path}: {error_line(error)}"
    )


def load_adapter_beside(base: Any, others: Any, directory: Path, name: str) -> tuple[Any, str]:
    """(PeftModel around `base`, name in it) of one more adapter, which is loaded and not switched on.

    `others`: the PeftModel whose adapters change layers of `base` already, or None; an adapter of the same kind goes in
    there under `name`. Raises AdapterError or ModelError; then everything is as it was.
    """
    kind = check_adapter_files(directory)["peft_type"]
    virtual = kind in [row.peft_type for row in METHODS.values() if row.virtual_tokens]
    if others is None or virtual:
        return load_adapter(base, directory), "default"
    if others.peft_type != kind:
        raise AdapterError(
            f"the adapter of {directory} is of {kind}; adapters of {others.peft_type.value} are loaded, which "
            "cannot be in one model with it"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            others.load_adapter(str(directory), name, torch_device=str(base.device))
        check_loaded(others, directory, safetensors_shapes(directory / ADAPTER), name)
    except Exception as error:
        if name in others.peft_config:
            others.delete_adapter(name)
        raise error if isinstance(error, AdapterError) else unfit(base, directory, error) from error
    return others, name
