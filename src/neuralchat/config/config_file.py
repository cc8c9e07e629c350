"""A YAML or JSON file of names and values, and nothing else that YAML could do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from neuralchat.errors import ArgumentsError
from neuralchat.paths import expanded_path

CONFIG_ENDINGS = (".yaml", ".yml", ".json")
MAX_CONFIG_BYTES = 64 << 10
# YAML looks through all open brackets again at each word.
MAX_DEPTH = 20


class Written(str):
    """A number, a date, true or false as it is written in the file; `value` is what YAML takes it for.

    YAML reads `save_strategy: no` as a boolean and `model_revision: 1.10` as 1.1. Which of the two is meant is known to
    the argument.
    """

    value: Any

    def __new__(cls, text: str, value: Any) -> Written:
        made = super().__new__(cls, text)
        made.value = value
        return made


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


def written(loader: PlainLoader, node: Any) -> Written:
    return Written(node.value, yaml.SafeLoader.yaml_constructors[node.tag](loader, node))


for name in ("bool", "int", "float", "timestamp"):
    PlainLoader.add_constructor(f"tag:yaml.org,2002:{name}", written)


def config_values(path: Path) -> dict[str, Any]:
    """Names and values of a YAML or JSON file that holds one mapping. Raises ArgumentsError.

    A value is text, Written, None, or a list of the first two; a mapping is text that holds JSON.
    """
    path = expanded_path(path)
    content = read_config(path)
    if not isinstance(content, dict):
        raise ArgumentsError(f"config file {path} must hold names and values, found {type(content).__name__}")
    if other := [str(key)[:40] for key in content if not isinstance(key, str) or isinstance(key, Written)]:
        raise ArgumentsError(
            f"config file {path} must hold names and values, found dict with the name {other[0]!r}, which is no text"
        )
    return {key: checked(path, key, value) for key, value in content.items()}


def checked(path: Path, key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [plain_value(path, key, item) for item in value]
    return None if value is None else plain_value(path, key, value)


def read_config(path: Path) -> Any:
    text = ""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_CONFIG_BYTES + 1)
        if len(raw) > MAX_CONFIG_BYTES:
            raise ArgumentsError(f"config file {path} is larger than {MAX_CONFIG_BYTES >> 10} KiB, so it is none")
        # PlainLoader is a SafeLoader.
        text = raw.decode("utf-8-sig")
        return yaml.load(text, PlainLoader)  # noqa: S506
    except OSError as error:
        raise ArgumentsError(f"config file {path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ArgumentsError(
            f"config file {path} is nested too deeply; a value is a text, a number or a list"
        ) from error
    # A date that does not exist and a number of too many digits are ValueErrors of YAML's own.
    except (yaml.YAMLError, ValueError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ArgumentsError(f"config file {path} is not {kind}: {problem_of(error, text)}") from error


def problem_of(error: Exception, text: str) -> str:
    """What is wrong with `text`, and at which line and column; the numbers are those that an editor shows.

    YAML's own words would name the text, which has no name, instead of the file.
    """
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        return f"the character {error.character:#06x} is not allowed, line {line}, column {column}"
    if not isinstance(error, yaml.MarkedYAMLError):
        # Python's advice to programmers is left out.
        return str(error).split("; use sys.")[0][:1000]
    mark = error.problem_mark or error.context_mark
    told = ", ".join(text for text in (error.context, error.problem) if text)
    if mark is None:
        return told[:1000]
    shown = mark.get_snippet(indent=2, max_length=100)
    return f"{told[:600]}, line {mark.line + 1}, column {mark.column + 1}" + (f"\n{shown}" if shown else "")


def plain_value(path: Path, key: str, value: Any) -> Any:
    """A text; a number, date, true or false as it is written; a mapping as JSON."""
    if isinstance(value, dict):
        try:
            return json.dumps(as_read(value))
        except (TypeError, ValueError) as error:
            raise ArgumentsError(f"config file {path}: {key} holds what JSON cannot: {error}") from error
    number = value.value if isinstance(value, Written) else None
    is_nan = isinstance(number, float) and math.isnan(number)
    if isinstance(value, list | set | bytes) or value is None or is_nan:
        kind = "nothing" if value is None else "not a number" if is_nan else type(value).__name__
        raise ArgumentsError(
            f"config file {path}: {key} has {kind} as a value; give a text, a number, or a list of them"
        )
    text = str(value)
    if "\0" in text or (not text.isascii() and any("\ud800" <= character < "\ue000" for character in text)):
        raise ArgumentsError(f"config file {path}: {key} holds a NUL character or half of a surrogate pair")
    return value if isinstance(value, Written) else text


def as_read(value: Any) -> Any:
    """What is within a mapping, with numbers, true and false as YAML takes them."""
    if isinstance(value, dict):
        return {as_read(key): as_read(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_read(item) for item in value]
    return value.value if isinstance(value, Written) else value
