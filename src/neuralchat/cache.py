"""Where things are kept between runs: fetched models, tokenized records, hashes, compiled kernels.

What lies there is believed, so it is looked at first: a directory must be the user's own and writable by nobody else,
and an entry must be what was stored, by size and hash. Kinds that make themselves again are bounded in size: the entry
that was used least recently goes first.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neuralchat.files import WRITING, file_sha256, make_private_directory, read_file, remove_tree, write_new_file
from neuralchat.paths import expanded_path
from neuralchat.working_directories import sweep_abandoned

# Bytes that the kinds that make themselves again may take together.
LIMIT_VARIABLE = "NEURALCHAT_CACHE_GIB"
DEFAULT_LIMIT_GIB = 20.0
SEAL = "seal.json"
SEAL_VERSION = 1
MAX_SEAL_BYTES = 1 << 20
WORK_PREFIX = ".writing-"
# How far the clock of a file system may be ahead of this machine's.
CLOCK_TOLERANCE_S = 3600.0


@dataclass(frozen=True)
class CacheKind:
    """What lies in one directory of the cache. `remade`: whoever misses it makes it again by itself."""

    name: str
    what: str
    remade: bool


CACHE_KINDS = {
    kind.name: kind
    for kind in (
        CacheKind("models", "fetched models", remade=False),
        CacheKind("tokenized", "tokenized records", remade=True),
        CacheKind("kernels", "compiled kernels", remade=True),
        CacheKind("hashes", "hashes of base models", remade=True),
        CacheKind("forecasts", "what earlier runs took, for forecasts", remade=True),
        CacheKind("gguf", "models as llama.cpp reads them", remade=True),
    )
}


class UntrustedCacheError(OSError):
    """A directory or file of the cache that somebody else could have written."""


def cache_directory() -> Path:
    """`$NEURALCHAT_HOME`, else `$XDG_CACHE_HOME/neuralchat`, else `~/.cache/neuralchat`.

    Raises OSError where the user has no home directory.
    """
    home = os.environ.get("NEURALCHAT_HOME")
    if home:
        return expanded_path(home)
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (expanded_path(cache) if cache else Path.home() / ".cache") / "neuralchat"
    except RuntimeError as error:
        raise OSError("no home directory is known; NEURALCHAT_HOME names a place for the cache") from error


def trusted_directory(path: Path) -> Path:
    """`path`, made for this user alone where it is missing.

    Raises UntrustedCacheError for one of somebody else, for one that others can write to, and for a link that somebody
    else made. Nothing in it is deleted: a name of the cache, or a link there, may lead to what is no cache.
    """
    make_private_directory(path)
    check_owner(path, path.lstat())
    check_own(path, path.stat())
    return path


def check_owner(path: Path, status: os.stat_result) -> None:
    """Raise UntrustedCacheError unless the user owns it, or root, who can do anything."""
    if status.st_uid not in (os.geteuid(), 0):
        raise UntrustedCacheError(f"{path} belongs to another user (id {status.st_uid}), who could put anything there")


def check_own(path: Path, status: os.stat_result) -> None:
    """Raise UntrustedCacheError unless the user (or root, who can do anything) owns it and nobody else may write it."""
    check_owner(path, status)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedCacheError(f"{path} can be written by other users; chmod go-w {path}")


# Entries: directories that are sealed when they are whole.


def seal(entry: Path) -> None:
    """Write down size and hash of every file of an entry, the last thing that is done to it.

    Where the umask lets a group write, nobody could tell afterwards that it did not: only the owner may from now on.
    """
    for path in (entry, *(entry / name for name in names_in(entry))):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
    files = {name: [(entry / name).stat().st_size, file_sha256(entry / name)] for name in names_in(entry)}
    write_new_file(entry / SEAL, json.dumps({"version": SEAL_VERSION, "files": files}), mode=0o644)


def broken_seal(entry: Path, *, own: bool = True) -> str | None:
    """Why an entry is not what was stored; None if it is, and then it counts as used.

    `own`: nobody else may have written it. Not so where the user has named a directory that several share.
    """
    try:
        if own:
            check_own(entry / SEAL, (entry / SEAL).stat())
        found = json.loads(read_file(entry / SEAL, MAX_SEAL_BYTES))
        if not isinstance(found, dict) or found.get("version") != SEAL_VERSION:
            return "it is of another version"
        files = found["files"]
        if sorted(files) != names_in(entry):
            return "files are missing, or are there that were not stored"
        for name, (size, sha256) in sorted(files.items()):
            status = (entry / name).stat()
            if own:
                check_own(entry / name, status)
            if status.st_size != size or file_sha256(entry / name) != sha256:
                return f"{name} is not what was stored"
        if own:
            check_own(entry, entry.stat())
    except FileNotFoundError:
        return "it was not finished"
    except OSError as error:
        return error.strerror or str(error)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{SEAL} is damaged"
    with suppress(OSError):
        os.utime(entry)
    return None


def names_in(entry: Path) -> list[str]:
    return sorted(path.name for path in entry.iterdir() if path.name != SEAL and not path.name.endswith(WRITING))


# Size


@dataclass(frozen=True)
class CacheEntry:
    """`used_at`: seconds since 1970."""

    kind: CacheKind
    path: Path
    size: int
    used_at: float


def cache_entries(root: Path | None = None) -> list[CacheEntry]:
    """All that is kept, the one that was used least recently first.

    A time to come is that of a clock that was wrong: such entries come first, or they would stay for ever.
    """
    root = cache_directory() if root is None else root
    found = []
    for kind in CACHE_KINDS.values():
        with suppress(OSError):
            # What a stranger's link leads to is none of ours: entries are deleted.
            check_owner(root / kind.name, (root / kind.name).lstat())
            for path in (root / kind.name).iterdir():
                with suppress(OSError):
                    found.append(CacheEntry(kind, path, size_on_disk(path), path.lstat().st_mtime))
    latest = time.time() + CLOCK_TOLERANCE_S
    return sorted(found, key=lambda entry: (entry.used_at <= latest, entry.used_at))


def size_on_disk(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_symlink() or file.is_file())


def limit_bytes() -> int:
    """Raises ValueError for a limit that is no number."""
    return int(float(os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT_GIB) * (1 << 30))


def keep_within_limit(*, keep: Path | None = None) -> list[CacheEntry]:
    """Delete what was used least recently until the cache fits its limit; never `keep`. Returns what was deleted.

    Whoever has an entry open keeps reading it: its file is gone when the last reader is.
    """
    try:
        limit = limit_bytes()
    except ValueError:
        limit = int(DEFAULT_LIMIT_GIB * (1 << 30))
    entries = [entry for entry in cache_entries() if entry.kind.remade]
    surplus = sum(entry.size for entry in entries) - limit
    deleted = []
    for entry in entries:
        if surplus <= 0:
            break
        if entry.path != keep and not entry.path.name.startswith("."):
            remove_tree(entry.path, ignore_errors=True)
            surplus -= entry.size
            deleted.append(entry)
    return deleted


def clear_cache(kinds: Sequence[str] | None = None) -> list[CacheEntry]:
    """Delete the entries of these kinds; None: of all that make themselves again, and what was left half-written."""
    wanted = [kind.name for kind in CACHE_KINDS.values() if kind.remade] if kinds is None else list(kinds)
    deleted = []
    for name in wanted:
        directory = cache_directory() / name
        sweep_abandoned(directory, WORK_PREFIX)
        sweep_abandoned(directory, ".fetch-")
    for entry in cache_entries():
        if entry.kind.name in wanted and not entry.path.name.startswith("."):
            remove_tree(entry.path)
            deleted.append(entry)
    return deleted
