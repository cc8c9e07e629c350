"""Which layers get LoRA where nobody names them: those that PEFT knows for the model, else all linear but the head."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel

from neuralchat.models.compat.peft import LORA_TARGETS, Conv1D, refuses, stands_for_experts

# The names of layers that choose experts: what they say is a choice, which LoRA would change for all tokens.
ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})


def known_targets(model: Any) -> list[str] | None:
    """PEFT's own choice for the model's type, where the model has such layers; None where it has none."""
    names = LORA_TARGETS.get(model.config.model_type)
    if not isinstance(names, list) or not all(linear_named(model, name) for name in names):
        return None
    return names


def linear_targets(model: Any) -> list[str]:
    """The names of all linear layers but the head, each name once: in every block it is the same layer.

    A name that other layers have as well is given with its whole path. Experts that are parameters are no layers, and
    names that PEFT takes for theirs are left out: LoRA on experts is asked for with --lora_all_linear.
    """
    names = [name for name in linear_names(model) if not stands_for_experts(LoraConfig(), model, name)]
    unseen = names_read_past(model)
    return [name for name in names if name not in unseen and not refuses(LoraConfig(), model, name)]


def names_read_past(model: Any) -> set[str]:
    """The names of layers whose owner computes with their weight by itself (Mamba): LoRA would not be seen there."""
    kinds: set[Any] = {type(module) for module in model.modules()}
    return {name for kind in kinds for name in weights_read_by(kind)}


@functools.cache
def weights_read_by(kind: type) -> frozenset[str]:
    """The names of the parts whose weight the code of a class reads."""
    try:
        code = inspect.getsource(kind)
    except (OSError, TypeError):
        return frozenset()
    return frozenset(re.findall(r"self\.(\w+)\.weight\b(?!\.)", code))


def linear_names(model: Any) -> list[str]:
    """Of the linear layers that read or write what the model knows: neither the head nor what chooses experts."""
    head, outside = model.get_output_embeddings(), outside_of_text(model)
    paths = {
        path: module
        for path, module in model.named_modules()
        if is_linear(module) and module is not head and module not in outside and not in_router(path)
    }
    others = {leaf_of(path) for path, module in model.named_modules() if path not in paths}
    return sorted({leaf_of(path) if leaf_of(path) not in others else path for path in paths})


def outside_of_text(model: Any) -> set[nn.Module]:
    """The modules of parts that see no tokens, as those for images are: LoRA there would learn nothing from text."""
    embedding = model.get_input_embeddings()
    towers = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    return {part for tower in towers if embedding not in set(tower.modules()) for part in tower.modules()}


def peft_takes_all_linear(model: Any) -> bool:
    """Whether PEFT's word for all linear layers means in this model what it says.

    It refuses some layers of Mamba, and takes what is derived from a linear layer, as routers are, for one. LoRA is
    for nothing on layers whose owner reads past them, and worse than that on routers.
    """
    if any(is_linear(module) and in_router(path) for path, module in model.named_modules()):
        return False
    if {leaf_of(name) for name in linear_names(model)} & names_read_past(model):
        return False
    derived = any(isinstance(module, nn.Linear | Conv1D) and not is_linear(module) for module in model.modules())
    return not derived and not any(refuses(LoraConfig(), model, name) for name in linear_names(model))


def expert_parameters(model: Any) -> list[str]:
    """The names of the parameters that hold the matrices of several experts, [experts, E, I] each."""
    names = set()
    for path, module in model.named_modules():
        if "expert" in f"{path} {type(module).__name__}".lower():
            own = [name for name, parameter in module.named_parameters(recurse=False) if parameter.dim() == 3]
            names |= {f"{leaf_of(path)}.{name}" for name in own}
    return sorted(names)


def in_router(path: str) -> bool:
    """Whether a module is what chooses experts, or a part of it."""
    return not ROUTERS.isdisjoint(path.split("."))


def routers_of(parameters: Iterable[str]) -> set[str]:
    """Those parameters that are the weights of what chooses experts."""
    return {name for name in parameters if in_router(name)}


def leaf_of(path: str) -> str:
    return path.rpartition(".")[2]


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a matrix and no more: a router may be derived from one and give something else."""
    kind: Any = type(module)
    return isinstance(module, nn.Linear | Conv1D) and computes_as_linear(kind)


@cache
def computes_as_linear(kind: Any) -> bool:
    """`kind`: a class of layers."""
    if kind.forward in (nn.Linear.forward, Conv1D.forward):
        return True
    if kind.__init__ is not nn.Linear.__init__:
        return False
    # Falcon writes the product out. Tried without a random number, which would change what is drawn afterwards.
    tiny = nn.utils.skip_init(kind, 3, 2, device="cpu")
    numbers = torch.arange(11.0, device="cpu").sin()
    with torch.no_grad():
        tiny.weight.copy_(numbers[:6].view(2, 3))
        tiny.bias.copy_(numbers[6:8])
        given, expected = numbers[8:], tiny.weight @ numbers[8:] + tiny.bias
        try:
            found = tiny(given[None])
        # A forward may ask for anything.
        except Exception:
            return False
    return isinstance(found, torch.Tensor) and found.shape == (1, 2) and torch.allclose(found[0], expected)


def is_named(model: Any, name: str) -> bool:
    """Whether PEFT finds something to put LoRA on by this name, or by the end of a path."""
    found = any(f".{path}".endswith(f".{name}") for path, _ in model.named_modules())
    return found or stands_for_experts(LoraConfig(), model, name)


def linear_named(model: Any, name: str) -> bool:
    """Whether there are layers of this name and all of them are linear."""
    found = [module for path, module in model.named_modules() if leaf_of(path) == name]
    return bool(found) and all(map(is_linear, found))
