"""Optimizer and learning rate schedule, from transformers' factories."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler

from neuralchat.config.command.words import word
from neuralchat.errors import ArgumentsError, NeuralChatError
from neuralchat.models.compat.trainer import GreedyLR, decayed_names, is_optimizer_factory

# Where an optimizer of transformers brings its own parameter groups (GaLore, LOMO, layer-wise ones).
OWN_PARAMETERS = ("params", "model", "optimizer_dict")


def make_optimizer(model: Any, args: TrainingArguments) -> torch.optim.Optimizer:
    """The optimizer of --optim over what is trained; weight decay as transformers' Trainer has it."""
    decayed = decayed_names(model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups: Any = [
        {"params": [p for name, p in trained if name in decayed], "weight_decay": args.weight_decay},
        {"params": [p for name, p in trained if name not in decayed], "weight_decay": 0.0},
    ]
    with refused_by_library(f"--optim {word(args.optim)}"):
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if is_optimizer_factory(kind):
            return kind()(model, **options)
        own = next((name for name in OWN_PARAMETERS if name in options), None)
        return kind(options.pop(own) if own else groups, **options)


def make_scheduler(optimizer: torch.optim.Optimizer, args: TrainingArguments, max_steps: int) -> Any:
    """The schedule of --lr_scheduler_type over `max_steps` optimizer steps."""
    with refused_by_library(f"--lr_scheduler_type {word(args.lr_scheduler_type)}"):
        return get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(max_steps),
            num_training_steps=max_steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,  # type: ignore[arg-type]
        )


@contextmanager
def refused_by_library(what: str) -> Iterator[None]:
    """What a library says of arguments that it cannot take, as an error of ours."""
    try:
        yield
    except NeuralChatError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, AssertionError, AttributeError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ArgumentsError(f"{what} cannot be used: {reason}") from error


def steps_by_metric(scheduler: Any) -> bool:
    """Whether a schedule moves on by what an evaluation finds, not with each step."""
    return isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau | GreedyLR)
