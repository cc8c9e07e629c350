"""A file of somebody else, which nothing may change, and what lies in a place."""

from __future__ import annotations

from pathlib import Path

VICTIM = "the victim's own text"


def names_in(path: Path) -> list[str]:
    return sorted(found.name for found in path.iterdir())
