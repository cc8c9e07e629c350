"""What a source says of the arguments, under the names of today."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from neuralchat.config.command.described_data import (
    NAMES_RECORDS,
    described_places,
    flag_of_files,
    instead_of_description,
)
from neuralchat.config.command.legacy_flags import LEGACY_FLAGS, notice, translate
from neuralchat.config.command.suggestions import FLAGS_OF_OTHER_TOOLS, WITHOUT_A_FLAG, did_you_mean, nearest
from neuralchat.config.conversion import BARE, TAKEN_BACK, is_true
from neuralchat.config.schema import Schema


@dataclasses.dataclass
class Named:
    """Values by the names of today, in the order in which they were said; old names are told, unknown ones refused."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    notices: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    # What an unknown name was probably meant to say: a mistake in writing is told once, not by all that it leaves out.
    guessed: dict[str, Any] = dataclasses.field(default_factory=dict)


def named(said: Mapping[str, Any], schema: Schema) -> Named:
    """None as a value means that nothing is said."""
    found = Named()
    for written, value in said.items():
        if value is None:
            continue
        name: str | None = written.replace("-", "_")
        if name in LEGACY_FLAGS:
            if value is TAKEN_BACK:
                name = LEGACY_FLAGS[name].today
            else:
                found.notices.append(notice(written))
                name, value = translate(name, value)
        elif name in schema.negations:
            name, value = schema.negations[name], negated(value)
        if name is None:
            continue
        flag = name if name in schema.arguments else meant_by(written, schema)
        if flag in NAMES_RECORDS and (places := described_places(value)) is not None:
            found.problems.append(f"--{written}: {instead_of_description(flag, places)}")
            # Also of what is not understood: that there are no records is no second problem.
            found.guessed[flag_of_files(flag)] = places or ["FILE"]
            continue
        if name not in schema.arguments and (instead := WITHOUT_A_FLAG.get(name.lower())):
            found.problems.append(f"there is no flag --{written}: {instead}")
            continue
        if name not in schema.arguments:
            meant = meant_by(written, schema)
            found.problems.append(f"unknown flag --{written}{did_you_mean(meant)}")
            if meant in schema.arguments:
                found.guessed[meant] = value
            continue
        # What is said again moves to the end.
        found.values.pop(name, None)
        found.values[name] = value
    return found


def negated(value: Any) -> Any:
    return value if value is TAKEN_BACK else not (value is BARE or is_true(value))


def meant_by(written: str, schema: Schema) -> str | None:
    known = {*schema.arguments, *schema.negations, *LEGACY_FLAGS, "help"}
    return nearest(written.replace("-", "_"), known, FLAGS_OF_OTHER_TOOLS)


def merged_values(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping of all sources; a later one wins.

    >>> merged_values({"lora_rank": 4, "seed": 1}, {"lora_rank": 8, "seed": TAKEN_BACK})
    {'lora_rank': 8}
    """
    values: dict[str, Any] = {}
    for source in sources:
        for name, value in source.items():
            if value is TAKEN_BACK:
                values.pop(name, None)
            else:
                values[name] = value
    return values
