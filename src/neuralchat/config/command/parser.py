"""The words of a command -> checked arguments; and what there is to say of each for `--help`."""

from __future__ import annotations

from collections.abc import Sequence

from neuralchat.config.command.words import read_words
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.schema import ORIGINAL_SCHEMA, PARTS, SCHEMA, Argument, Schema

PART_TITLES = {
    "model": "Model",
    "data": "Data",
    "tuning": "Adapter and run",
    "distributed": "Several processes",
    "training": "Training (transformers)",
}


def parse(words: Sequence[str], *, prog: str, implied: Sequence[str], schema: Schema = SCHEMA) -> FinetuneConfig:
    """Checked arguments. `implied` are flags that the command itself stands for (such as --do_train).

    Raises ArgumentsError with all problems at once.
    """
    said = read_words(words, schema)
    return FinetuneConfig.from_values(
        said.values,
        prog=prog,
        config_file=said.config_file,
        implied=read_words(implied, schema).values,
        stray=said.stray,
        unreadable=said.problems,
        schema=schema,
    )


def help_rows() -> dict[str, list[list[str]]]:
    """Title -> (name, what stands for its value, meaning and default) of each flag, and where the original's scripts
    have another default the meaning with that; help.json holds them.
    """
    return {PART_TITLES[part]: [help_row(argument) for argument in SCHEMA.of_part(part)] for part in PARTS}


def help_row(argument: Argument) -> list[str]:
    meanings = [help_of(argument), help_of(ORIGINAL_SCHEMA.arguments[argument.name])]
    return [argument.name, metavar_of(argument), *dict.fromkeys(meanings)]


def metavar_of(argument: Argument) -> str:
    if argument.is_switch:
        return "true|false"
    return "VALUE..." if argument.takes_many else "VALUE"


def help_of(argument: Argument) -> str:
    facts, default = argument.facts, argument.default
    if facts.rejected:
        text = f"refused: {facts.rejected}"
    else:
        text = argument.meaning if default in (None, "", []) else f"{argument.meaning} (default: {default})"
    return text.replace("%", "%%")
