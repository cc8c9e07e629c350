"""What a source says of the arguments, under the names of today."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from neuralchat.config.conversion import BARE, TAKEN_BACK, is_true
from neuralchat.config.legacy_flags import LEGACY_FLAGS, notice, translate
from neuralchat.config.schema import Schema


@dataclasses.dataclass
class Named:
    """Values by the names of today, in the order in which they were said; old names are told, unknown ones refused."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    notices: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


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
        if name not in schema.arguments:
            found.problems.append(unknown(written, schema))
            continue
        # What is said again moves to the end.
        found.values.pop(name, None)
        found.values[name] = value
    return found


def negated(value: Any) -> Any:
    return value if value is TAKEN_BACK else not (value is BARE or is_true(value))


def unknown(written: str, schema: Schema) -> str:
    known = sorted({*schema.arguments, *schema.negations, *LEGACY_FLAGS})
    near = difflib.get_close_matches(written.replace("-", "_"), known, n=1, cutoff=0.5)
    return f"unknown flag --{written}" + (f"; did you mean --{near[0]}?" if near else "")


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
