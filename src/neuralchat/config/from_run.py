"""neuralchat.json of a finished run -> the flags that repeat it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from neuralchat.config.arguments import DataArguments, DistributedArguments, ModelArguments, TuningArguments
from neuralchat.errors import RunDirectoryError
from neuralchat.runs.directory import MANIFEST, read_manifest

OWN = (ModelArguments, DataArguments, TuningArguments, DistributedArguments)
# Where the run was, and how it was begun, are not part of what it was.
NOT_REPEATED = (
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "from_run", "allow_changed", "logging_dir",
    "local_rank", "num_processes", "run_name",
)  # fmt: skip
PATHS = ("model_name_or_path", "tokenizer_name", "config_name", "train_file", "validation_file", "dataset_name")


def flags_of_run(run: Path) -> list[str]:
    """The arguments of the run, as flags; relative paths are looked up where the run was started.

    Raises RunDirectoryError if the manifest has no arguments.
    """
    manifest = read_manifest(run)
    arguments, started_in = manifest.get("arguments"), manifest.get("working_directory")
    if not isinstance(arguments, dict):
        raise RunDirectoryError(f"{run / MANIFEST} holds no arguments; the run cannot be repeated")
    # What is as it is by default was not asked for; if a later version has another default, the comparison with the
    # run's identity tells.
    usual = {field.name: field.default for kind in OWN for field in dataclasses.fields(kind)}
    flags: list[str] = []
    for name, value in arguments.items():
        if name in NOT_REPEATED or value is None or value == [] or value == usual.get(name):
            continue
        if name in PATHS and isinstance(started_in, str):
            value = found_again(value, Path(started_in))
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
    return flags


def found_again(value: Any, started_in: Path) -> Any:
    if isinstance(value, list):
        return [found_again(item, started_in) for item in value]
    path = started_in / str(value)
    return str(path) if path.exists() else value
