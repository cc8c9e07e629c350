"""Paths as a person writes them -> paths that the system knows."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> str:
    """`~` and `~name` at the beginning become a home directory; a name without them, such as a hub id, stays.

    A shell does so only where `~` begins a word, so not in `--output_dir=~/runs` and not in files. Variables are left
    alone.

    >>> expanded("a/~b"), expanded("org/model")
    ('a/~b', 'org/model')
    """
    return os.path.expanduser(os.fspath(path))


def expanded_path(path: str | os.PathLike[str]) -> Path:
    return Path(expanded(path))
