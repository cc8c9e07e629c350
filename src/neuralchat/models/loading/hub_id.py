"""What the Hugging Face hub calls a base model, for the field `base_model` of a model card."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from neuralchat.files import read_file
from neuralchat.models.loading.fetch import FETCHED_CARD, PACKAGED_MODELS, PackagedModel, fetched_card, fetched_path

MAX_OWN_CARD_BYTES = 1 << 16

# The hub's names without an owner, and what it leads them to.
WITHOUT_OWNER = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
    "t5-small": "google-t5/t5-small",
    "t5-base": "google-t5/t5-base",
    "t5-large": "google-t5/t5-large",
}


def hub_id_of(*names: str) -> str | None:
    """Of the first of a model's names that has one; None where all are places of this machine, or unknown."""
    return next((found for name in names if (found := hub_id_of_name(name)) is not None), None)


def hub_id_of_name(name: str) -> str | None:
    for known, packaged in PACKAGED_MODELS.items():
        # Also by the place where it was put.
        is_at_its_place = (place := fetched_path(known)) is not None and name == str(place)
        if name.lower() == known or is_at_its_place or has_card_of(Path(name), packaged):
            return packaged.hub_id
    if os.path.lexists(name) or name.endswith(".gguf"):
        return None
    if name in WITHOUT_OWNER or "/" not in name:
        return WITHOUT_OWNER.get(name)
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def has_card_of(directory: Path, model: PackagedModel) -> bool:
    """Whether it was fetched, wherever it lies now. Other cards name what a model was made of, not what it is."""
    with suppress(OSError, ValueError):
        return read_file(directory / FETCHED_CARD, MAX_OWN_CARD_BYTES).decode("utf-8", "replace") == fetched_card(model)
    return False
