"""What decides the result of a run, stored with it, so that a run that goes on, or is repeated, is the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from neuralchat.config.config import SCHEMA, FinetuneConfig
from neuralchat.config.facts import OF_THE_FIELD
from neuralchat.data.prepared_data import PreparedData
from neuralchat.errors import RunDirectoryError, problem_list

# Of an identity, what may round otherwise and decides nothing else.
ROUNDING = ("world_size", "threads", "torch")


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
    stored: Mapping[str, Any], found: Mapping[str, Any], allowed: Sequence[str], *, where: str, resumed: bool
) -> list[str]:
    """Notices. Raises RunDirectoryError naming all that differs between a run and what is `stored` of it.

    `allowed`: names that may differ, or "all". `resumed`: the weights of `where` are gone on from, so that what shapes
    them must be the same, allowed or not.
    """
    differing = differences(stored, found)
    fixed = [name for name in differing if resumed and name in SHAPING]
    free = [name for name in differing if name not in fixed and name not in allowed and "all" not in allowed]
    if fixed or free:
        raise RunDirectoryError(
            problem_list(
                f"this is not the run that {where} belongs to; its result would be another:",
                [
                    f"{name}: was {old}, is now {new}"
                    for name, (old, new) in differing.items()
                    if name in (*fixed, *free)
                ],
            )
            + what_to_do(fixed, free)
        )
    notices = [f"{name} changed as allowed: was {old}, is now {new}" for name, (old, new) in differing.items()]
    rounding = [
        f"{name} was {stored[name]}, is now {found[name]}"
        for name in ROUNDING
        if name in stored and stored[name] != found[name]
    ]
    if rounding:
        notices.append(f"the result may differ in rounding, and where there is dropout: {', '.join(rounding)}")
    return notices


def what_to_do(fixed: Sequence[str], free: Sequence[str]) -> str:
    """`fixed`: changes that saved weights cannot follow; `free`: those that may be accepted."""
    if not fixed:
        return f"\nGive what it was, or accept the change with --allow_changed {' '.join(free)}"
    decide = "decides" if len(fixed) == 1 else "decide"
    rest = f"\nThe rest may be accepted with --allow_changed {' '.join(free)}" if free else ""
    return (
        f"\n{', '.join(fixed)} {decide} which weights are trained, and those that are saved do not fit others: give "
        f"what it was, or begin a new run in another --output_dir, without --resume_from_checkpoint{rest}"
    )


# The arguments that decide which weights there are, and of which shape.
SHAPING = frozenset(name for name, argument in SCHEMA.arguments.items() if argument.facts.shapes_weights)


def as_begun(arguments: FinetuneConfig, stored: Mapping[str, Any]) -> tuple[FinetuneConfig, dict[str, Any]]:
    """(`arguments` with the defaults of the version that began the run, these values by name) where they were not
    given and the `stored` run has them: a command goes on to mean what it meant.

    `arguments` fit the model already: a default of today may mean the same there.
    """
    facts = {name: argument.facts for name, argument in arguments.schema.arguments.items()}
    before = stored.get("arguments")
    before = before if isinstance(before, dict) else {}
    earlier = {name: fact.earlier for name, fact in facts.items() if fact.earlier is not OF_THE_FIELD}
    taken = {
        name: value
        for name, value in earlier.items()
        if facts[name].changes_result and before.get(name, value) == value
    }
    if before.get("learning_rate") == arguments.tuning.method.learning_rate:
        taken["learning_rate"] = before["learning_rate"]
    size = earlier["per_device_train_batch_size"]
    if stored.get("global_batch") == size * (stored.get("world_size") or 0):
        taken["per_device_train_batch_size"] = size
    values = arguments.every_value()
    taken = {name: value for name, value in taken.items() if name not in arguments.given and values[name] != value}
    return arguments.with_values(taken), taken


def differences(stored: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """name -> (before, now) of all that decides the result and is not the same."""
    parts = {
        name: (short(stored.get(name)), short(found[name]))
        for name in ("base_model", "template", "data", "global_batch")
        if stored.get(name) != found[name]
    }
    before = stored.get("arguments")
    before, now = before if isinstance(before, dict) else {}, found["arguments"]
    for name in sorted({*before, *now}):
        if name not in before and now[name] == earlier_value(name):
            # It came later.
            continue
        if before.get(name) != now.get(name):
            parts[name] = (short(before.get(name)), short(now.get(name)))
    return parts


def earlier_value(name: str) -> Any:
    argument = SCHEMA.arguments.get(name)
    return OF_THE_FIELD if argument is None else argument.facts.earlier


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."
