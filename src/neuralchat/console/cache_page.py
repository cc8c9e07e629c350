"""What the cache holds -> a table."""

from __future__ import annotations

import time
from collections.abc import Sequence

from neuralchat.cache import CACHE_KINDS, CacheEntry, cache_directory, cache_entries, clear_cache, limit_bytes
from neuralchat.console.tables import Page, Table
from neuralchat.console.units import gib, mib


def listing() -> Page:
    """Every entry, the one that was used least recently first, and what they take together."""
    entries = cache_entries()
    rows = [
        (
            entry.kind.what,
            entry.path.name,
            mib(entry.size),
            time.strftime("%Y-%m-%d", time.localtime(entry.used_at)),
            "" if entry.kind.remade else "kept until it is cleared",
        )
        for entry in entries
    ]
    table = [Table(("kind", "name", "size", "last used", ""), rows)] if rows else []
    return Page([str(cache_directory()), *table, total_of(entries)])


def total_of(entries: Sequence[CacheEntry]) -> str:
    remade = sum(entry.size for entry in entries if entry.kind.remade)
    try:
        limit = gib(limit_bytes())
    except ValueError:
        limit = "no number"
    return f"{gib(remade)} that are made again when they are missing; $NEURALCHAT_CACHE_GIB allows {limit}"


def cleared(kinds: Sequence[str] | None) -> Page:
    deleted = clear_cache(kinds)
    named = ", ".join(kind.what for kind in CACHE_KINDS.values() if any(entry.kind is kind for entry in deleted))
    what = f"deleted {len(deleted)} entries ({named}), {mib(sum(entry.size for entry in deleted))}"
    return Page([what if deleted else f"there was nothing to delete in {cache_directory()}"])
