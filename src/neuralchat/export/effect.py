"""Whether what is exported would be the base model alone: an adapter that changes nothing is refused unless allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from neuralchat.console import note
from neuralchat.errors import AdapterError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.effect import check_effect

SO = "what is written would be the base model under another name (--allow_no_effect writes it)"
SO_COMBINED = "the others are combined with nothing (--allow_no_effect does it all the same)"
# LoRA multiplies what it adds by these, which begin as zeros; its other matrix has no effect by itself.
FACTORS, OTHER_FACTORS = ("lora_B", "lora_embedding_B"), ("lora_A", "lora_embedding_A")


def check_export_effect(bot: Chatbot, *, allowed: bool) -> None:
    """Raises AdapterError where the bot has an adapter and answers as its base model does; `allowed`: a note of it."""
    if bot.has_base:
        with_note(lambda: check_effect(bot, [], SO), allowed=allowed)


def check_adapter_effect(name: str, weights: Path, so: str = SO, *, allowed: bool) -> None:
    """The same from the file of an adapter, where no model is loaded. What is not LoRA alone is taken as it is.

    `so`: what would follow, as a clause.
    """

    def check() -> None:
        if is_lora_of_zeros(weights):
            raise AdapterError(
                f"the adapter of {name} has no effect: all that it would add is zero, so that {so}. Is it the run that "
                "was meant, and did its training take a step?"
            )

    with_note(check, allowed=allowed)


def with_note(check: Callable[[], object], *, allowed: bool) -> None:
    try:
        check()
    except AdapterError as error:
        if not allowed:
            raise
        note(str(error))


def is_lora_of_zeros(weights: Path) -> bool:
    try:
        with safe_open(weights, framework="pt") as tensors:
            names = set(tensors.keys())
            factors = {name for name in names if any(part in name for part in FACTORS)}
            others = {name for name in names - factors if any(part in name for part in OTHER_FACTORS)}
            is_lora = bool(factors) and factors | others == names
            return is_lora and not any(torch.any(tensors.get_tensor(name)) for name in factors)
    except (OSError, SafetensorError):
        # What is wrong with the file is told where it is copied.
        return False
