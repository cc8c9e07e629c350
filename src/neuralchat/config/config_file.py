"""A YAML or JSON file of names and values, and nothing else that YAML could do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from neuralchat.errors import ArgumentsError

CONFIG_ENDINGS = (".yaml", ".yml", ".json")
MAX_CONFIG_BYTES = 64 << 10
# YAML looks through all open brackets again at each word.
MAX_DEPTH = 20


class PlainLoader(yaml.SafeLoader):
    """YAML of plain values: no tags, no aliases (a few of them can stand for gigabytes), no name given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not taken; write the value", problem_mark=mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem=f"tags ({event.tag}) are not taken", problem_mark=mark)
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, *arguments: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            mark: Any = self.get_mark()
            raise yaml.MarkedYAMLError(problem="is nested too deeply", problem_mark=mark)
        super().fetch_flow_collection_start(*arguments)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = getattr(key, "value", None)
            if isinstance(name, str) and name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name} is given more than once", problem_mark=key.start_mark)
            seen.add(name if isinstance(name, str) else id(key))
        return super().construct_mapping(node, deep)


def config_values(path: Path) -> dict[str, Any]:
    """Names and values of a YAML or JSON file that holds one mapping. Raises ArgumentsError."""
    content = read_config(path)
    if not isinstance(content, dict):
        raise ArgumentsError(f"config file {path} must hold names and values, found {type(content).__name__}")
    if other := [str(key)[:40] for key in content if not isinstance(key, str)]:
        raise ArgumentsError(
            f"config file {path} must hold names and values, found dict with the name {other[0]!r}, which is no text"
        )
    return {key: checked(path, key, value) for key, value in content.items()}


def checked(path: Path, key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [plain_value(path, key, item) for item in value]
    return None if value is None else plain_value(path, key, value)


def read_config(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_CONFIG_BYTES + 1)
        if len(raw) > MAX_CONFIG_BYTES:
            raise ArgumentsError(f"config file {path} is larger than {MAX_CONFIG_BYTES >> 10} KiB, so it is none")
        # PlainLoader is a SafeLoader.
        return yaml.load(raw.decode("utf-8-sig"), PlainLoader)  # noqa: S506
    except OSError as error:
        raise ArgumentsError(f"config file {path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ArgumentsError(
            f"config file {path} is nested too deeply; a value is a text, a number or a list"
        ) from error
    # A date that does not exist and a number of too many digits are ValueErrors of YAML's own.
    except (yaml.YAMLError, ValueError) as error:
        # Python's advice to programmers is left out.
        raise ArgumentsError(f"config file {path} is not YAML: {str(error).split('; use sys.')[0][:1000]}") from error


def plain_value(path: Path, key: str, value: Any) -> Any:
    """A text, a number, true or false; a mapping as JSON, a date as text."""
    if isinstance(value, dict):
        try:
            return json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ArgumentsError(f"config file {path}: {key} holds what JSON cannot: {error}") from error
    if isinstance(value, list | set | bytes) or value is None or (isinstance(value, float) and math.isnan(value)):
        kind = "nothing" if value is None else "not a number" if isinstance(value, float) else type(value).__name__
        raise ArgumentsError(
            f"config file {path}: {key} has {kind} as a value; give a text, a number, or a list of them"
        )
    text = str(value)
    if "\0" in text or (not text.isascii() and any("\ud800" <= character < "\ue000" for character in text)):
        raise ArgumentsError(f"config file {path}: {key} holds a NUL character or half of a surrogate pair")
    return value if isinstance(value, bool | int | float) else text
