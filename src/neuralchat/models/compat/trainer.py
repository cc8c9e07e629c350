"""Parts of transformers' Trainer that our own loop uses; only Trainer itself is documented."""

from __future__ import annotations

from typing import Any

from transformers import Trainer

# Which tracker each word of --report_to stands for.
from transformers.integrations import get_reporting_integration_callbacks

# Noise on embeddings (--neftune_noise_alpha), as a forward hook.
from transformers.integrations.neftune import neftune_post_forward_hook

# The schedule that moves on by what an evaluation finds, besides torch's ReduceLROnPlateau.
from transformers.optimization import GreedyLR

# What calls all callbacks in turn, and what marks those that have state.
from transformers.trainer_callback import CallbackHandler, ExportableState

# Whether --optim names something that makes an optimizer from a model.
from transformers.trainer_optimizer import is_optimizer_factory

# The ids of special tokens in a model's configuration become those of its tokenizer.
from transformers.trainer_utils import align_special_tokens

__all__ = [
    "CallbackHandler",
    "ExportableState",
    "GreedyLR",
    "align_special_tokens",
    "decayed_names",
    "get_reporting_integration_callbacks",
    "is_optimizer_factory",
    "neftune_post_forward_hook",
]


def decayed_names(model: Any) -> set[str]:
    """Names of the parameters that weight decay is for: an instance method that uses nothing of its instance."""
    return set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
