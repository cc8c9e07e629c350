"""Data sets as config files of other tools describe them, a mapping each -> what to write here instead."""

from __future__ import annotations

import json
import shlex
from typing import Any

# Where the data lie, by the most telling of the names that say it.
PLACES = ("data_files", "path", "file_name", "name", "source", "dataset", "hf_hub_url", "train", "id")
# Flags that name records: in the place of their value a mapping is a description.
NAMES_RECORDS = ("train_file", "validation_file", "dataset_name")
PLACES_SHOWN = 4


def described_places(value: Any) -> list[str] | None:
    """Where the data sets lie that `value` describes; None where it describes none.

    >>> described_places(['{"path": "a.json", "type": "alpaca"}', "b.json"])
    ['a.json', 'b.json']
    """
    items = [as_mapping(item) or item for item in (value if isinstance(value, list | tuple) else [value])]
    if not any(isinstance(item, dict) for item in items):
        return None
    return [place for item in items for place in (places_of(item) if isinstance(item, dict) else [str(item)])]


def as_mapping(text: Any) -> dict[str, Any] | None:
    """A mapping of a config file, which comes as its JSON text."""
    try:
        content = json.loads(text) if isinstance(text, str) and text.lstrip().startswith("{") else text
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def places_of(description: dict[str, Any]) -> list[str]:
    for name in PLACES:
        held = description.get(name)
        texts = held if isinstance(held, list) else [held]
        if found := [text for text in texts if isinstance(text, str) and text.strip()]:
            return found
    return []


def flag_of_files(flag: str) -> str:
    """The flag that names files for what `flag`, one of NAMES_RECORDS, is for: training, or holding out."""
    return "validation_file" if flag == "validation_file" else "train_file"


def instead_of_description(flag: str, places: list[str]) -> str:
    """What to write in the place of descriptions of data sets under a name that means `flag`."""
    files = flag_of_files(flag)
    shown = shlex.join(places[:PLACES_SHOWN]) + (" ..." if len(places) > PLACES_SHOWN else "")
    of_training = "their shares with --mix FILE=0.7 FILE=0.3, a data set of the hub with --dataset_name, "
    return (
        f"data sets are named here, not described: files with --{files} {shown or 'FILE ...'}, "
        f"{of_training if files == 'train_file' else ''}columns with --columns; what kind the records are is seen by "
        "their fields"
    )
