"""Paths as a person writes them -> paths that the system knows."""

from __future__ import annotations

import difflib
import os
from itertools import islice
from pathlib import Path

# How alike a name must be to be the one that was probably meant, from 0 to 1; and how many of a directory are compared.
ALIKE_NAMES, COMPARED_NAMES = 0.75, 10_000


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


def nearest_path(path: str | os.PathLike[str]) -> Path | None:
    """The path that is there and was probably meant by one that is not; None if there is none like it.

    Each part that is not there is compared with what lies in its directory.
    """
    place = Path()
    try:
        for part in Path(path).parts:
            if not os.path.lexists(place / part):
                names = [entry.name for entry in islice(os.scandir(place), COMPARED_NAMES)]
                alike = difflib.get_close_matches(part, names, n=1, cutoff=ALIKE_NAMES)
                if not alike:
                    return None
                place /= alike[0]
            else:
                place /= part
    except (OSError, ValueError):
        return None
    return place
