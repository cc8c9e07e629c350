"""Internal names of transformers, each with the reason why no public one does."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from torch import nn

ROTARY = "apply_rotary_pos_emb"
# The global of a family's module that holds the interface.
INTERFACE = "ALL_ATTENTION_FUNCTIONS"
NO_CODE = compile("", "", "exec")


# Configurations and files


def file_of_checkpoint(name: str, file: str, **hub: Any) -> str | None:
    """The path of a file of a directory or hub id, None if it has no such file.

    The public call raises for a missing file as it does for a hub that cannot be reached; only this argument tells them
    apart.
    """
    from transformers.utils import cached_file

    return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)


def forget_quantization(model: Any) -> None:
    """Let a model whose GGUF weights were widened be saved; save_pretrained refuses one that calls itself quantized."""
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    model.is_quantized = False


# Attention


def attention_of(model: Any) -> str:
    """The name of the attention implementation that a model has taken; there is a public way to set it, none to ask."""
    return str(model.config._attn_implementation)


def calls_attention_interface(model: Any) -> bool:
    """Whether a layer of the model looks up its attention in the interface.

    is_backend_compatible, the public question, is answered by a flag that some families have not set.
    """
    kinds = {type(module) for module in model.modules()}
    return any(INTERFACE in getattr(inspect.unwrap(kind.forward), "__code__", NO_CODE).co_names for kind in kinds)


def keeps_a_state(model: Any) -> bool:
    """Whether layers hand a state from token to token (Mamba and its like), by which generate refuses some modes."""
    return bool(model._is_stateful)


# Rotary positions


def rotary_function(attention: type[nn.Module]) -> Callable[..., Any] | None:
    """The function by which an attention class turns queries and keys, None if it calls none by that name.

    It is a global of the module that the class stands in: there is neither an argument nor an attribute for it.
    """
    forward = inspect.unwrap(attention.forward)
    return forward.__globals__.get(ROTARY) if ROTARY in forward.__code__.co_names else None


def with_rotary_function(attention: type[nn.Module], rotary: Callable[..., Any]) -> type[nn.Module]:
    """A subclass whose forward is the same code and calls `rotary`; the library's module stays as it is.

    What wraps forward (today the renaming of a deprecated argument) is left away.
    """
    plain = inspect.unwrap(attention.forward)
    names = {**plain.__globals__, ROTARY: rotary}
    forward = types.FunctionType(plain.__code__, names, plain.__name__, plain.__defaults__, plain.__closure__)
    forward.__kwdefaults__ = plain.__kwdefaults__
    return type(attention.__name__, (attention,), {"forward": forward, "__module__": __name__})
