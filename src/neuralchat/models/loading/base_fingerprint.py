"""Which base model this is, whatever its path: a hash over its configuration and weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from neuralchat.models.loading.base_model import ModelSource, resolve
from neuralchat.models.loading.file_hashes import remembered_sha256

HASHED = ("config.json", "*.safetensors", "*.bin", "*.index.json")


def base_fingerprint(source: ModelSource) -> str:
    """SHA-256 over names and contents of configuration and weight files; for a hub model its name and commit."""
    directory = Path(resolve(source.name))
    if not directory.is_dir():
        return f"{source.name}@{commit_of(source) or source.revision}"
    files = sorted({file for pattern in HASHED for file in directory.glob(pattern)})
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {remembered_sha256(file)}\n".encode())
    return digest.hexdigest()


def commit_of(source: ModelSource) -> str | None:
    """The commit of a hub model as its files lie in the hub's cache; None for a directory or what is not there."""
    if Path(resolve(source.name)).is_dir():
        return None
    cached = try_to_load_from_cache(source.name, "config.json", cache_dir=source.cache_dir, revision=source.revision)
    # .../snapshots/COMMIT/config.json
    return Path(cached).parent.name if isinstance(cached, str) else None
