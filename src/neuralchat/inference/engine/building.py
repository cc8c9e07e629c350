"""A model -> the engine that answers with it, batched where its family and its adapters can be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import psutil

from neuralchat.console import note
from neuralchat.errors import ArgumentsError
from neuralchat.inference.engine.packed.batched import MOST_RUNNING, PackedAnswers
from neuralchat.inference.engine.shelf import Shelf
from neuralchat.inference.engine.torch_engine import MOST_WAITING, TorchEngine
from neuralchat.inference.loading import load
from neuralchat.inference.origin import origin_of
from neuralchat.models.families.table import family_of

# Without a number of tokens: this share of the memory that is free, and no more than so many tokens.
MEMORY_SHARE, MOST_MEMORY_TOKENS = 0.25, 65_536
LEAST_MEMORY_TOKENS = 2048
# Tokens of what was said before and may be gone on with, beyond which no more memory is taken for it.
MOST_KEPT_TOKENS = 8_192


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """`memory_tokens`: tokens whose keys and values have room; None: by what memory is free, of which no more than for
    MOST_KEPT_TOKENS is taken for texts that nobody is being answered. `most_running`: answers that are computed at a
    time. `most_waiting`: beyond them, EngineBusyError. `native`: by compiled layers, where the model's structure has
    them.
    """

    memory_tokens: int | None = None
    most_running: int = MOST_RUNNING
    most_waiting: int = MOST_WAITING
    native: bool = True

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("memory_tokens", "most_running", "most_waiting")}
        wrong = [
            f"--{name} must be at least 1, found {value}"
            for name, value in numbers.items()
            if value is not None and value < 1
        ]
        if wrong:
            raise ArgumentsError("\n".join(wrong), problems=wrong)


DEFAULT_SETTINGS = EngineSettings()


def engine_around(
    model: Any, base_name: str, adapter_name: str | None = None, settings: EngineSettings = DEFAULT_SETTINGS
) -> TorchEngine:
    """The engine of a transformers model, or of a PeftModel whose adapter is then called `adapter_name`.

    The model is the engine's from here on.
    """
    shelf = Shelf(model, base_name, adapter_name)
    batch = None
    if family_of(shelf.base.config).take_pages(shelf.base):
        size = shelf.base.get_input_embeddings().weight.element_size()
        memory = settings.memory_tokens or memory_tokens_for(shelf.base.config, bytes_per_number=size)
        kept = None if settings.memory_tokens else MOST_KEPT_TOKENS
        batch = PackedAnswers(
            shelf, memory, most_kept_tokens=kept, most_running=settings.most_running, native=settings.native
        )
        if not batch.proven:
            batch = None
    if batch is None:
        note(f"{base_name}: answers are computed one by one, since its family's cannot be computed together")
    return TorchEngine(shelf, batch, most_waiting=settings.most_waiting)


def load_engine(
    path_or_name: str | os.PathLike[str],
    *,
    base_name: str = "base",
    adapter_name: str = "tuned",
    base_model: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
    bf16: bool | None = None,
    settings: EngineSettings = DEFAULT_SETTINGS,
) -> TorchEngine:
    """The engine of what `Chatbot.load` takes. A whole model, a base among them, is called `base_name`."""
    origin = origin_of(path_or_name, base_model)
    # A template is the business of who asks; the first that the tokenizer has will do.
    model, _, _ = load(origin, template=None, trust_remote_code=trust_remote_code, bf16=bf16)
    return engine_around(model, base_name, adapter_name if hasattr(model, "peft_config") else None, settings)


def memory_tokens_for(config: Any, *, bytes_per_number: int) -> int:
    """By the memory that is free and what a token's keys and values take, at most."""
    config = config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    per_token = 2 * config.num_hidden_layers * kept * size * bytes_per_number
    share = MEMORY_SHARE * psutil.virtual_memory().available
    return max(LEAST_MEMORY_TOKENS, min(MOST_MEMORY_TOKENS, int(share / per_token)))
