"""Hashes of large files, remembered for as long as nothing about the file has changed."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from neuralchat.cache import cache_directory, check_own, trusted_directory
from neuralchat.files import file_sha256, read_file, write_file


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
