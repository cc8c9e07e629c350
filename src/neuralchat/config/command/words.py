"""The words of a command -> names and values, and the way back."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuralchat.config.command.legacy_flags import LEGACY_FLAGS
from neuralchat.config.config_file import CONFIG_ENDINGS
from neuralchat.config.conversion import BARE, TAKEN_BACK
from neuralchat.config.schema import Schema

PAIR = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
# What may stand before a space and an equals sign, or, with the sign, before a space.
NAME_BEFORE_EQUALS = re.compile(r"(?:--)?(?P<name>[A-Za-z_][\w-]*)(?P<equals>=?)")


@dataclasses.dataclass
class Said:
    """A command as it was written: names, not yet looked up, with texts."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    config_file: Path | None = None
    stray: list[str] = dataclasses.field(default_factory=list)
    # What is wrong with how the words are written, where what they mean is clear.
    problems: list[str] = dataclasses.field(default_factory=list)

    def say(self, name: str, value: Any) -> None:
        # What is said again moves to the end.
        self.values.pop(name, None)
        self.values[name] = value


def read_words(words: Sequence[str], schema: Schema) -> Said:
    """A config file as first word, then --name value, --name=value and name=value in any order.

    >>> read_words(["--lora_rank", "4", "seed=1", "--bf16"], Schema()).values
    {'lora_rank': '4', 'seed': '1', 'bf16': <Mark.BARE: 'bare'>}
    """
    said, position = Said(), 0
    if words and is_config_file(words[0], schema):
        said.config_file, position = Path(words[0]), 1
    while position < len(words):
        if spaced := spaced_pair(words[position:], schema):
            name, text, count = spaced
            position += count
            said.problems.append(f"'{name} = {text}' is to be written without spaces: {name}={text}")
            said.say(name, value_of(name, [text] if text else [], schema))
            continue
        word = words[position]
        position += 1
        if word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            following = [] if equals else values_after(words[position:], name, schema)
            position += len(following)
            texts = [text] if equals else following
            said.say(name, value_of(name, texts, schema))
        elif pair := PAIR.fullmatch(word):
            name, text = pair.groups()
            # "name=" takes back what stood before it, such as a line of the config file.
            said.say(name, value_of(name, [text], schema) if text else TAKEN_BACK)
        elif is_flag(word, schema) and words[position : position + 1] and not words[position].startswith("--"):
            said.problems.append(f"'{word} {words[position]}' lacks its dashes: --{word} {words[position]}")
            said.say(word, value_of(word, [words[position]], schema))
            position += 1
        else:
            said.stray.append(word)
    return said


def spaced_pair(words: Sequence[str], schema: Schema) -> tuple[str, str, int] | None:
    """(name, value, number of words) of `name = value`, `name =value` or `name= value`, which a shell takes apart."""
    first = NAME_BEFORE_EQUALS.fullmatch(words[0])
    if first is None:
        return None
    name, equals = first["name"], first["equals"]
    rest = list(words[1:])
    if equals:
        # "name=" by itself takes back what was said before.
        is_value = rest and is_flag(name, schema) and not rest[0].startswith("--") and not PAIR.fullmatch(rest[0])
        return (name, rest[0], 2) if is_value and not NAME_BEFORE_EQUALS.fullmatch(rest[0]) else None
    if not rest or not rest[0].startswith("="):
        return None
    if rest[0] != "=":
        # Of several values of a flag the first may begin so.
        argument = schema.arguments.get(name.replace("-", "_"))
        is_value = words[0].startswith("--") and argument is not None and argument.takes_many
        return None if is_value else (name, rest[0][1:], 2)
    value = rest[1] if len(rest) > 1 and not rest[1].startswith("--") else ""
    return name, value, 3 if value else 2


def is_config_file(word: str, schema: Schema) -> bool:
    pair = PAIR.fullmatch(word)
    return word.endswith(CONFIG_ENDINGS) and not word.startswith("--") and not (pair and is_flag(pair[1], schema))


def values_after(words: Sequence[str], name: str, schema: Schema) -> list[str]:
    """The words that belong to the flag before them.

    name=value directly after a flag is that flag's value unless the name is a flag of its own; so are all that follow,
    where the flag takes pairs.
    """
    argument = schema.arguments.get(name.replace("-", "_"))
    is_one = name.replace("-", "_") in {*LEGACY_FLAGS, *schema.negations} or (argument and not argument.takes_many)
    texts: list[str] = []
    for position, word in enumerate(words[:1] if is_one else words):
        pair = PAIR.fullmatch(word)
        pairs = argument is not None and argument.facts.pairs
        if word.startswith("--") or (pair and ((texts and not pairs) or is_flag(pair[1], schema))):
            break
        spaced = spaced_pair(words[position:], schema)
        if spaced and is_flag(spaced[0], schema):
            break
        texts.append(word)
    return texts


def value_of(name: str, texts: list[str], schema: Schema) -> Any:
    argument = schema.arguments.get(name.replace("-", "_"))
    if not texts:
        return BARE
    return texts if argument and argument.takes_many else texts[0]


def is_flag(name: str, schema: Schema) -> bool:
    return name in schema.arguments or name in schema.negations or name in LEGACY_FLAGS


def words_of(values: Mapping[str, Any]) -> list[str]:
    """Words that say `values`.

    >>> words_of({"lora_rank": 4, "bf16": True, "seed": TAKEN_BACK, "train_file": ["a.json", "b.json"]})
    ['--lora_rank', '4', '--bf16', 'true', 'seed=', '--train_file', 'a.json', 'b.json']
    """
    words = []
    for name, value in values.items():
        if value is BARE:
            words.append(f"--{name}")
        elif value is TAKEN_BACK or value in ([], ()):
            words.append(f"{name}=")
        else:
            texts = [word_of(item) for item in (value if isinstance(value, list | tuple) else [value])]
            # Such a word would be read as a flag of its own, or as a value written with spaces.
            joined = len(texts) == 1 and (texts[0].startswith(("--", "=")) or PAIR.fullmatch(texts[0]))
            words += [f"--{name}={texts[0]}"] if joined else [f"--{name}", *texts]
    return words


def word_of(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def word(value: Any) -> str:
    """A member of an enumeration as it is written on the command line."""
    return str(getattr(value, "value", value))
