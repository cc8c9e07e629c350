"""neuralchat.json of a finished run -> the arguments that repeat it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from neuralchat.config.facts import OF_THE_FIELD
from neuralchat.config.schema import Argument, Schema
from neuralchat.errors import RunDirectoryError
from neuralchat.runs.directory import MANIFEST, read_manifest

# Without these the run may not be the same, or not end where it was wanted.
TOLD_IF_LEFT_OUT = ("trust_remote_code", "push_to_hub", "report_to")


def values_of_run(run: Path, schema: Schema) -> tuple[dict[str, Any], list[str]]:
    """(the arguments of the run, notices); relative paths are looked up where the run was started.

    Where the run was, and how it was begun, are not part of what it was. What is as it is by default was not asked
    for; if a later version has another default, the comparison with the run's identity tells. Raises
    RunDirectoryError if the manifest has no arguments.
    """
    manifest = read_manifest(run)
    arguments, started_in = manifest.get("arguments"), manifest.get("working_directory")
    if not isinstance(arguments, dict):
        raise RunDirectoryError(f"{run / MANIFEST} holds no arguments; the run cannot be repeated")
    # What is not written down was as it used to be.
    values = {
        name: argument.facts.earlier
        for name, argument in schema.arguments.items()
        if is_fitted(argument) and name not in arguments
    }
    left_out: list[str] = []
    for name, value in arguments.items():
        argument = schema.arguments.get(name)
        if value is None or value == [] or (argument and value == argument.default and not is_fitted(argument)):
            continue
        if argument and not argument.facts.repeated:
            left_out += [name] if name in TOLD_IF_LEFT_OUT else []
            continue
        if argument and argument.facts.path and isinstance(started_in, str):
            find = pair_found_again if argument.facts.pairs else found_again
            value = find(value, Path(started_in))
        values[name] = value
    notices = [
        f"{run} was made with --{name}, which is not repeated: it runs code or reaches out. Give it yourself if you "
        "trust where it leads."
        for name in left_out
    ]
    return values, notices


def is_fitted(argument: Argument) -> bool:
    """Whether a default is not the same at all times, so that a value that equals it may have been asked for."""
    return argument.facts.earlier is not OF_THE_FIELD


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
