"""Flags of older transformers and of the original NeuralChat -> today's, one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neuralchat.config.conversion import BARE, is_true


@dataclass(frozen=True)
class Legacy:
    """`today`: the flag that takes over the value, or None if the old flag has nothing left to do.

    `when_true`: the value that a true switch becomes.
    """

    today: str | None
    note: str = ""
    when_true: str | None = None


LEGACY_FLAGS = {
    "no_cuda": Legacy("use_cpu"),
    "xpu_backend": Legacy("ddp_backend"),
    "evaluation_strategy": Legacy("eval_strategy"),
    "warmup_ratio": Legacy("warmup_steps", "a number below 1 is a share of all steps"),
    "group_by_length": Legacy("train_sampling_strategy", when_true="group_by_length"),
    "pad_to_max_length": Legacy(None, "batches are as wide as their longest example at most"),
    "lora_r": Legacy("lora_rank"),
    "lora_target": Legacy("lora_target_modules"),
    "use_ipex": Legacy(None, "torch itself has the fast paths now"),
}


def translate(name: str, value: Any) -> tuple[str | None, Any]:
    """(flag of today, its value) of an old flag; (None, None) where there is nothing to set.

    >>> translate("group_by_length", "yes")
    ('train_sampling_strategy', 'group_by_length')
    """
    legacy = LEGACY_FLAGS[name]
    if legacy.when_true is None:
        return legacy.today, value
    if value is BARE or is_true(value):
        return legacy.today, legacy.when_true
    return None, None


def notice(name: str) -> str:
    """What to tell the user of an old flag, named as it was written."""
    legacy = LEGACY_FLAGS[name.replace("-", "_")]
    took_over = f"is now --{legacy.today}" if legacy.today else "is not needed any more"
    return f"--{name} {took_over}" + (f" ({legacy.note})" if legacy.note else "")
