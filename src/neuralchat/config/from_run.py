"""neuralchat.json of a finished run -> the arguments that repeat it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from neuralchat.config.schema import Schema
from neuralchat.errors import RunDirectoryError
from neuralchat.runs.directory import MANIFEST, read_manifest


def values_of_run(run: Path, schema: Schema) -> dict[str, Any]:
    """The arguments of the run; relative paths are looked up where the run was started.

    Where the run was, and how it was begun, are not part of what it was. What is as it is by default was not asked
    for; if a later version has another default, the comparison with the run's identity tells. Raises
    RunDirectoryError if the manifest has no arguments.
    """
    manifest = read_manifest(run)
    arguments, started_in = manifest.get("arguments"), manifest.get("working_directory")
    if not isinstance(arguments, dict):
        raise RunDirectoryError(f"{run / MANIFEST} holds no arguments; the run cannot be repeated")
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        argument = schema.arguments.get(name)
        if value is None or value == [] or (argument and (not argument.facts.repeated or value == argument.default)):
            continue
        if argument and argument.facts.path and isinstance(started_in, str):
            find = pair_found_again if argument.facts.pairs else found_again
            value = find(value, Path(started_in))
        values[name] = value
    return values


def pair_found_again(value: Any, started_in: Path) -> Any:
    """The same of values like PATH=VALUE."""
    if not isinstance(value, list):
        return value
    split = [str(pair).rpartition("=") for pair in value]
    return [f"{found_again(path, started_in)}={rest}" for path, _, rest in split]


def found_again(value: Any, started_in: Path) -> Any:
    if isinstance(value, list):
        return [found_again(item, started_in) for item in value]
    path = os.path.join(started_in, str(value))
    # False as well for what no file system can name.
    return path if os.path.exists(path) else value
