"""State of an optimizer, a scheduler and generators <-> one safetensors file: no pickle, so nothing in it can run.

Tensors are stored as they are; the structure around them is JSON in the file's metadata. Example:
  {"step": 3, "moment": tensor}  ->  tensor "0", structure {"dict": [["step", 3], ["moment", {"tensor": "0"}]]}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from neuralchat.errors import RunDirectoryError
from neuralchat.files import write_new_file

STRUCTURE = "structure"
PLAIN = (str, int, float, bool, type(None))


def write_state(path: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of tensors, numpy arrays and plain values; synced to disk."""
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(taken_apart(state, tensors))
    write_new_file(path, save(tensors, metadata={STRUCTURE: structure}))


def read_state(path: Path) -> Any:
    """What write_state was given; arrays come back as arrays. Raises RunDirectoryError for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            structure = json.loads(file.metadata()[STRUCTURE])
            return put_together(structure, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error!r}") from error


def taken_apart(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON; tensors are moved to `tensors` and named in their place."""
    if isinstance(value, torch.Tensor):
        return {"tensor": keep(value, tensors)}
    if isinstance(value, np.ndarray):
        return {"array": keep(torch.from_numpy(value), tensors)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {"dict": [[taken_apart(k, tensors), taken_apart(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [taken_apart(item, tensors) for item in value]}
    if isinstance(value, list):
        return [taken_apart(item, tensors) for item in value]
    if isinstance(value, PLAIN):
        return value
    raise RunDirectoryError(
        f"a checkpoint cannot hold a {type(value).__name__} of the optimizer; choose another --optim, or "
        "--save_strategy no"
    )


def keep(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    name = str(len(tensors))
    # A copy: two entries that share memory would be refused, and a view would drag its whole storage along.
    tensors[name] = tensor.detach().cpu().clone().contiguous()
    return name


def put_together(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [put_together(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {put_together(k, tensors): put_together(v, tensors) for k, v in content}
    if kind == "tuple":
        return tuple(put_together(item, tensors) for item in content)
    raise ValueError(f"unknown kind '{kind}'")
