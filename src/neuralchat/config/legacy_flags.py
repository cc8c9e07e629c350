"""Flags of older transformers and of the original NeuralChat -> today's, one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TRUE_WORDS = ("true", "t", "yes", "y", "1")


@dataclass(frozen=True)
class Legacy:
    """`today`: the flag that takes over the value, or None if the old flag has nothing left to do.

    `when_true`: the value that a true switch becomes. `bare`: the value of the flag without one.
    """

    today: str | None
    note: str = ""
    when_true: str | None = None
    bare: str | None = None


LEGACY_FLAGS = {
    "no_cuda": Legacy("use_cpu"),
    "xpu_backend": Legacy("ddp_backend"),
    "evaluation_strategy": Legacy("eval_strategy"),
    "warmup_ratio": Legacy("warmup_steps", "a number below 1 is a share of all steps"),
    "group_by_length": Legacy("train_sampling_strategy", when_true="group_by_length"),
    "use_auth_token": Legacy("use_auth_token", bare="True"),
    "pad_to_max_length": Legacy(None, "batches are as wide as their longest example at most"),
    "use_ipex": Legacy(None, "torch itself has the fast paths now"),
}


def translate(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(arguments of today, notices). Values follow as they came, `--flag value` or `--flag=value`."""
    translated: list[str] = []
    notices: list[str] = []
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        name, equals, value = word.removeprefix("--").partition("=")
        legacy = LEGACY_FLAGS.get(name.replace("-", "_")) if word.startswith("--") else None
        if legacy is None:
            translated.append(word)
            continue
        if not equals and position < len(arguments) and not arguments[position].startswith("--"):
            value = arguments[position]
            position += 1
        if legacy.today != name.replace("-", "_"):
            notices.append(notice(name, legacy))
        if legacy.today is None:
            continue
        if legacy.when_true is not None:
            if not value or value.lower() in TRUE_WORDS:
                translated += [f"--{legacy.today}", legacy.when_true]
            continue
        value = value or legacy.bare or ""
        translated += [f"--{legacy.today}", *([value] if value else [])]
    return translated, notices


def notice(name: str, legacy: Legacy) -> str:
    took_over = f"is now --{legacy.today}" if legacy.today else "is not needed any more"
    return f"--{name} {took_over}" + (f" ({legacy.note})" if legacy.note else "")
