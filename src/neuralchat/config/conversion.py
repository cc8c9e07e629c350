"""A value of a command line, a file or a Python call -> the type of its argument."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from neuralchat.config.schema import Argument

TRUE_WORDS = ("true", "t", "yes", "y", "1")
FALSE_WORDS = ("false", "f", "no", "n", "0")


class Mark(enum.Enum):
    """What stands in the place of a value."""

    # A flag without a value.
    BARE = "bare"
    # "key=": what stood before it counts no more.
    TAKEN_BACK = "taken back"


BARE, TAKEN_BACK = Mark.BARE, Mark.TAKEN_BACK


def is_true(value: Any) -> bool:
    return str(value).lower() in TRUE_WORDS


def converted(argument: Argument, value: Any) -> Any:
    """`value` in the type of the argument. Raises ValueError, saying what is wrong with it."""
    if value is BARE:
        value = True if argument.is_switch else argument.facts.bare
        if value is None:
            raise ValueError("expected at least one value" if argument.takes_many else "expected a value")
    if isinstance(value, enum.Enum):
        value = value.value
    if argument.facts.pairs:
        return as_pairs(value)
    if argument.takes_many:
        return as_list(argument, value)
    return as_one(argument, value)


def as_list(argument: Argument, value: Any) -> list[str] | str:
    values = list(value) if isinstance(value, list | tuple) else [value]
    texts = [as_text(item) for item in values]
    # Where one text is allowed too, it stays one.
    return texts[0] if str in argument.kinds and len(texts) == 1 else texts


def as_pairs(value: Any) -> list[str]:
    """Texts like NAME=VALUE, from a mapping (or its JSON text), a list, or one text with commas between them.

    >>> as_pairs({"instruction": "q"}), as_pairs("instruction=q,output=a"), as_pairs(["a,b.json=1"])
    (['instruction=q'], ['instruction=q', 'output=a'], ['a,b.json=1'])
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise invalid("JSON", value) from None
    if isinstance(value, Mapping):
        return [f"{as_text(name)}={as_text(inner)}" for name, inner in value.items()]
    texts = [as_text(item) for item in (value if isinstance(value, list | tuple) else [value])]
    if len(texts) == 1 and texts[0].lstrip().startswith("{"):
        return as_pairs(texts[0])
    pairs = []
    for text in texts:
        parts = text.split(",")
        # A comma may also be part of a name.
        pairs += [part.strip() for part in parts] if all("=" in part for part in parts) else [text]
    if wrong := [pair for pair in pairs if not all(pair.rpartition("="))]:
        raise ValueError(f"expected NAME=VALUE, found '{wrong[0][:60]}'")
    return pairs


def as_one(argument: Argument, value: Any) -> Any:
    kinds = argument.kinds
    if isinstance(value, Mapping) and dict in kinds:
        return as_json(value) if str in kinds else dict(value)
    if bool in kinds:
        word = str(value).lower()
        if word in (*TRUE_WORDS, *FALSE_WORDS):
            return word in TRUE_WORDS
        if str not in kinds:
            raise invalid("bool", value)
    if int in kinds:
        return as_int(value)
    if float in kinds:
        return as_float(value)
    # What no text can say is refused as a whole, see Facts.rejected.
    return as_text(value) if any(issubclass(kind, str) for kind in kinds) else value


def as_json(value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"holds what JSON cannot: {error}") from error


def as_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        raise invalid("int", value)
    try:
        return int(value)
    except ValueError:
        raise invalid("int", value) from None


def as_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | Real):
        raise invalid("float", value)
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise invalid("float", value) from None


def as_text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, enum.Enum):
        value = value.value
    if not isinstance(value, str | Real):
        raise invalid("text", value)
    return str(value)


def invalid(kind: str, value: Any) -> ValueError:
    shown = repr(value)
    return ValueError(f"invalid {kind} value: {shown if len(shown) <= 60 else shown[:57] + '...'}")
