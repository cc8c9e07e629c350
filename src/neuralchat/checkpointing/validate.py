"""What is read from a checkpoint, checked before it is believed: hashes tell of accidents, not of who wrote them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerState

from neuralchat.checkpointing.store import TRAINER_STATE
from neuralchat.errors import NeuralChatError, RunDirectoryError
from neuralchat.files import read_file
from neuralchat.runs.directory import MAX_METRICS_BYTES

# Entries of optimizer states that have the shape of their weight.
LIKE_THE_WEIGHT = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "sum")


@contextmanager
def fits(checkpoint: Path) -> Iterator[None]:
    """Whatever a library says of a checkpoint that it cannot take becomes one error that names the checkpoint."""
    try:
        yield
    except NeuralChatError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise RunDirectoryError(
            f"checkpoint {checkpoint} does not fit this run: {reason}. Give the arguments and records that it was made "
            "with; or delete it, to go on from an earlier one."
        ) from error


def restore_trainer_state(state: TrainerState, checkpoint: Path, output: Path) -> int:
    """Fill `state` with what the checkpoint knows, within the bounds of this run; returns its step.

    Raises RunDirectoryError for values that no run can have written.
    """
    with fits(checkpoint):
        found = json.loads(read_file(checkpoint / TRAINER_STATE, MAX_METRICS_BYTES).decode("utf-8"))
        step, best = found["global_step"], found.get("best_global_step")
        if type(step) is not int or not 0 <= step <= state.max_steps:
            raise ValueError(f"its step is {step!r:.40}, this run has {state.max_steps}")
        state.global_step = step
        state.epoch = float(found["epoch"] or 0.0)
        if not math.isfinite(state.epoch):
            raise ValueError(f"its epoch is {state.epoch}")
        history = found.get("log_history")
        if not isinstance(history, list) or not all(isinstance(line, dict) for line in history):
            raise ValueError("its history is not a list of lines")
        state.log_history = history
        if best is not None:
            if type(best) is not int or not 0 <= best <= step:
                raise ValueError(f"its best step is {best!r:.40}")
            state.best_global_step, state.best_metric = best, float(found["best_metric"])
            # Whatever path is written there: a run looks for its best checkpoint in its own directory only.
            if (output / f"checkpoint-{best}").is_dir():
                state.best_model_checkpoint = str(output / f"checkpoint-{best}")
        state.total_flos = float(found.get("total_flos") or 0.0)
        state.num_input_tokens_seen = int(found.get("num_input_tokens_seen") or 0)
        return step


def check_like(found: Any, own: Any, where: str) -> None:
    """Raise ValueError unless `found` has the structure of `own`: the same names, lengths and kinds of values."""
    if isinstance(own, dict):
        if not isinstance(found, dict) or found.keys() != own.keys():
            raise ValueError(f"{where} has other entries")
        for name, value in own.items():
            check_like(found[name], value, f"{where}.{name}")
    elif isinstance(own, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(own):
            raise ValueError(f"{where} has another length")
        for number, value in enumerate(own):
            check_like(found[number], value, f"{where}[{number}]")
    elif isinstance(own, int | float) and not isinstance(own, bool):
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise ValueError(f"{where} is {found!r:.40}, not a number")
    elif type(found) is not type(own):
        raise ValueError(f"{where} is {found!r:.40}")


def check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError where the state of a weight does not have the weight's shape; torch would go on with it."""
    names: set[frozenset[str]] = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            names.add(frozenset(state))
            for name, value in state.items():
                if name in LIKE_THE_WEIGHT and (not isinstance(value, Tensor) or value.shape != parameter.shape):
                    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise ValueError(f"{name} has shape {shape}, its weight {tuple(parameter.shape)}")
    if len(names - {frozenset()}) > 1:
        raise ValueError("the optimizer's state has other entries for some weights than for others")
