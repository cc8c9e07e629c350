"""A YAML or JSON file of names and values -> the same as flags."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from neuralchat.errors import ArgumentsError

CONFIG_ENDINGS = (".yaml", ".yml", ".json")


def config_flags(path: Path) -> list[str]:
    """Flags of a YAML or JSON file that holds one mapping of names to values."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentsError(f"config file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArgumentsError(f"config file {path} is not YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ArgumentsError(f"config file {path} must hold names and values, found {type(content).__name__}")
    flags: list[str] = []
    for key, value in content.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        flags += [f"--{key}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
    return flags
