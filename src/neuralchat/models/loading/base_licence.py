"""Under which licence a base model says it is: by its model card, or the field of a GGUF file."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from neuralchat.files import read_file
from neuralchat.models.loading.base_model import ModelSource
from neuralchat.models.loading.fetch import PACKAGED_MODELS, fetched_path
from neuralchat.models.loading.gguf_base import is_gguf_file

MAX_CARD_BYTES = 4 << 20
HEAD = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
# `license: mit`, and `license:` above a list of them.
LICENCE = re.compile(r"^license:[ \t]*(?:\n[ \t]*-[ \t]*)?['\"]?([A-Za-z0-9][\w.+-]{0,60})['\"]?[ \t]*$", re.MULTILINE)
PLAIN_LICENCE = re.compile(r"[\w.+-][\w.+ -]{0,80}")


def licence_of_base(source: ModelSource) -> str | None:
    """Its name, as the hub has them (apache-2.0, mit, llama3.2); None where the model's own files do not say."""
    name = source.name
    if is_gguf_file(name):
        return licence_in_gguf(Path(name))
    for known, packaged in PACKAGED_MODELS.items():
        # Also by the place where it was put.
        if name.lower() == known or Path(name) == fetched_path(known):
            return packaged.licence
    path = Path(name) / "README.md" if Path(name).is_dir() else cached_card(source)
    return None if path is None else licence_in_card(path)


def cached_card(source: ModelSource) -> Path | None:
    """Of a hub's model, where it was downloaded too. A name that no hub has is no error here."""
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):
        found = try_to_load_from_cache(source.name, "README.md", source.cache_dir, source.revision)
        return Path(found) if isinstance(found, str) else None
    return None


def licence_in_card(path: Path) -> str | None:
    try:
        text = read_file(path, MAX_CARD_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return None
    head = HEAD.match(text)
    found = LICENCE.search(head.group(1)) if head else None
    return found.group(1) if found else None


def licence_in_gguf(path: Path) -> str | None:
    import gguf

    with suppress(Exception):  # what a damaged file makes the library raise is not declared anywhere
        field = gguf.GGUFReader(path).get_field("general.license")
        text = "" if field is None else str(field.contents())
        return text if PLAIN_LICENCE.fullmatch(text) else None
    return None
