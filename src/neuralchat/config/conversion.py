"""A value of a command line, a file or a Python call -> the type of its argument."""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import Any

from neuralchat.config.config_file import Written
from neuralchat.config.facts import FALSE_WORDS, TRUE_WORDS
from neuralchat.config.schema import Argument
from neuralchat.paths import expanded

# What people write for the choice "no".
NOTHING_WORDS = ("false", "off", "none")
# Names with commas between them, in brackets and quotes or without; a pattern of names is none of it.
SEVERAL_NAMES = re.compile(r"""\[?(\s*['"]?[\w.-]+['"]?\s*(,|$|(?=\])))+\]?""")


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
        pairs = as_pairs(value)
        return [expanded(pair) for pair in pairs] if argument.facts.path else pairs
    if argument.takes_many:
        return as_list(argument, value)
    return as_one(argument, value)


def as_list(argument: Argument, value: Any) -> list[str] | str:
    values = list(value) if isinstance(value, list | tuple) else [value]
    texts = [text for item in values for text in texts_of(argument, item)]
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


def texts_of(argument: Argument, item: Any) -> list[str]:
    """One item of a list; more where it stands for several names.

    `q_proj,v_proj` and `[q_proj, v_proj]` are two names.
    """
    text = as_text(item)
    if argument.facts.path:
        return [expanded(text)]
    if argument.facts.names and SEVERAL_NAMES.fullmatch(text):
        return re.findall(r"[\w.-]+", text)
    return [text]


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
    if argument.facts.words and (found := as_word(value, argument.facts.words)) is not None:
        return found
    if int in kinds:
        return as_int(value)
    if float in kinds:
        return as_float(value)
    # What no text can say is refused as a whole, see Facts.rejected.
    if not any(issubclass(kind, str) for kind in kinds):
        return value
    text = as_text(value)
    if argument.choices:
        return as_choice(text, argument.choices)
    return expanded(text) if argument.facts.path else text


def as_choice(text: str, choices: tuple[str, ...]) -> str:
    """`text` as the choice that it stands for, or as it is where it stands for none.

    >>> as_choice("False", ("no", "steps")), as_choice("Steps", ("no", "steps")), as_choice("x", ("no", "steps"))
    ('no', 'steps', 'x')
    """
    word = text.lower()
    if text not in choices and word in NOTHING_WORDS and "no" in choices:
        return "no"
    return word if text not in choices and word in choices else text


def as_word(value: Any, words: Collection[str]) -> str | None:
    """The word that `value` is; None for a number. Raises ValueError for any other text.

    >>> as_word("Auto", ["auto"]), as_word("512", ["auto"]), as_word(512, ["auto"])
    ('auto', None, None)
    """
    text = str(value).lower()
    if text in words:
        return text
    if isinstance(value, str) and not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f"expected a number or {' or '.join(words)}, found '{value[:60]}'")
    return None


def as_json(value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"holds what JSON cannot: {error}") from error


def as_int(value: Any) -> int:
    value = value.value if isinstance(value, Written) else value
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        raise invalid("int", value)
    try:
        return int(value)
    except ValueError:
        raise invalid("int", value) from None


def as_float(value: Any) -> float:
    value = value.value if isinstance(value, Written) else value
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
    # Written is a str too; what is kept is a plain one.
    return "".join(value) if isinstance(value, str) else str(value)


def invalid(kind: str, value: Any) -> ValueError:
    shown = repr(value)
    return ValueError(f"invalid {kind} value: {shown if len(shown) <= 60 else shown[:57] + '...'}")
