"""Which base model this is, whatever its path: a hash over its configuration and weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from neuralchat.cache import cache_directory
from neuralchat.files import file_sha256, write_file
from neuralchat.models.loading.base_model import ModelSource, resolve

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


def remembered_sha256(file: Path) -> str:
    """The file's hash, from the cache if size and time of change are those it was computed at."""
    status = file.stat()
    key = hashlib.sha256(f"{file.absolute()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
    remembered = cache_directory() / "hashes" / key
    try:
        return json.loads(remembered.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        found = file_sha256(file)
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_file(remembered, json.dumps({"file": str(file), "sha256": found}))
    except OSError:
        # Only time is lost where the cache cannot be written.
        pass
    return found
