"""Which layers get LoRA where nobody names them: those that PEFT knows for the model, else all linear but the head."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig
from torch import nn

from neuralchat.models.compat.peft import LORA_TARGETS, Conv1D, taken_targets


def known_targets(model: Any) -> list[str] | None:
    """PEFT's own choice for the model's type, where the model has such layers; None where it has none."""
    names = LORA_TARGETS.get(model.config.model_type)
    if not isinstance(names, list) or not all(linear_named(model, name) for name in names):
        return None
    return names


def linear_targets(model: Any) -> list[str]:
    """The names of all linear layers but the head, each name once: in every block it is the same layer.

    A name that other layers have as well is given with its whole path. Experts that are parameters are no layers: LoRA
    on them is asked for with --lora_all_linear.
    """
    head = model.get_output_embeddings()
    paths = {path: module for path, module in model.named_modules() if is_linear(module) and module is not head}
    others = {leaf_of(path) for path, module in model.named_modules() if path not in paths}
    names = {leaf_of(path) if leaf_of(path) not in others else path for path in paths}
    return taken_targets(LoraConfig(), model, sorted(names))


def leaf_of(path: str) -> str:
    return path.rpartition(".")[2]


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a matrix and no more: a router may be derived from one and give something else."""
    return isinstance(module, nn.Linear | Conv1D) and type(module).forward in (nn.Linear.forward, Conv1D.forward)


def other_linears(model: Any) -> list[str]:
    """The names of layers that PEFT would take for linear ones and that compute something else."""
    return sorted(
        {leaf_of(path) for path, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and not is_linear(m)}
    )


def linear_named(model: Any, name: str) -> bool:
    """Whether there are layers of this name and all of them are linear."""
    found = [module for path, module in model.named_modules() if leaf_of(path) == name]
    return bool(found) and all(map(is_linear, found))
