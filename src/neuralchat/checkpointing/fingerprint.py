"""What decides the result of a run, stored with it, so that a run that goes on, or is repeated, is the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from neuralchat.config.config import SCHEMA, FinetuneConfig
from neuralchat.config.facts import OF_THE_FIELD
from neuralchat.data.prepared_data import PreparedData
from neuralchat.errors import RunDirectoryError, problem_list


def identity_of(
    arguments: FinetuneConfig, data: PreparedData, base_model: str, *, units_per_step: int, world_size: int
) -> dict[str, Any]:
    """As JSON. `units_per_step`: the global batch, all ranks and accumulation steps together."""
    return {
        "base_model": base_model,
        "template": data.template.fingerprint(),
        "data": data.trained_on.content_fingerprint,
        "global_batch": units_per_step,
        "arguments": arguments.deciding_values(),
        # What follows is told where it differs, but refuses nothing.
        "world_size": world_size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def check_identity(
    stored: Mapping[str, Any], found: Mapping[str, Any], allowed: Sequence[str], *, where: str
) -> list[str]:
    """Notices. Raises RunDirectoryError naming all that differs between a run and what is `stored` of it.

    `allowed`: names that may differ, or "all".
    """
    differing = differences(stored, found)
    refused = {name: pair for name, pair in differing.items() if name not in allowed and "all" not in allowed}
    if refused:
        names = " ".join(refused)
        raise RunDirectoryError(
            problem_list(
                f"this is not the run that {where} belongs to; its result would be another:",
                [f"{name}: was {before}, is now {now}" for name, (before, now) in refused.items()],
            )
            + f"\nGive what it was, or accept the change with --allow_changed {names}"
        )
    notices = [f"{name} changed as allowed: was {old}, is now {new}" for name, (old, new) in differing.items()]
    rounding = [
        f"{name} was {stored[name]}, is now {found[name]}"
        for name in ("world_size", "threads", "torch")
        if name in stored and stored[name] != found[name]
    ]
    if rounding:
        notices.append(f"the result may differ in rounding, and where there is dropout: {', '.join(rounding)}")
    return notices


# Of arguments that came later, as runs were before.
EARLIER_VALUES = {
    name: argument.facts.earlier
    for name, argument in SCHEMA.arguments.items()
    if argument.facts.earlier is not OF_THE_FIELD
}


def differences(stored: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """name -> (before, now) of all that decides the result and is not the same."""
    parts = {
        name: (short(stored.get(name)), short(found[name]))
        for name in ("base_model", "template", "data", "global_batch")
        if stored.get(name) != found[name]
    }
    before = stored.get("arguments")
    before, now = {**EARLIER_VALUES, **(before if isinstance(before, dict) else {})}, found["arguments"]
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            parts[name] = (short(before.get(name)), short(now.get(name)))
    return parts


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."
