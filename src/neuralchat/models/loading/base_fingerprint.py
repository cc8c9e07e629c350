"""Which base model this is, whatever its path: a hash over its configuration and weights."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from neuralchat.cache import cache_directory, check_own, trusted_directory
from neuralchat.files import file_sha256, read_file, write_file
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
    # The time of the last change of any kind too: whoever sets a file's time back cannot set that.
    status = file.stat()
    state = f"{file.absolute()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    key = hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()
    try:
        remembered = trusted_directory(cache_directory() / "hashes") / key
        kept = json.loads(read_file(remembered, 1 << 16))
        check_own(remembered, remembered.stat())
        if kept["check"] == check_of(key, kept["sha256"]):
            return kept["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = file_sha256(file)
    # Only time is lost where the cache cannot be written.
    with suppress(OSError):
        kept = {"file": str(file), "sha256": found, "check": check_of(key, found)}
        write_file(trusted_directory(cache_directory() / "hashes") / key, json.dumps(kept))
    return found


def check_of(key: str, sha256: str) -> str:
    """What tells a damaged entry, or one under another name, from a whole one."""
    return hashlib.sha256(f"{key} {sha256}".encode()).hexdigest()
