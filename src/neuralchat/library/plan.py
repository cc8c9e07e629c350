"""Planning from Python: what `neuralchat plan MODEL` says, as numbers."""

from __future__ import annotations

import os
from typing import Any

from neuralchat.models.quiet import quiet_libraries
from neuralchat.planning.model_plan import ModelPlan, PlanQuestion, make_plan


def plan(model: str | os.PathLike[str] | None = None, **question: Any) -> ModelPlan:
    """Does a model fit, and how long would it take? Its configuration is enough; nothing is downloaded.

    `model`: a directory, a hub id or a fetched name; or `model_config="llama-7b"`, a published shape, or
    `model_parameters="7B"`. `question`: the other flags of the verb by their names, such as `bf16=True`,
    `memory_gib=64`, `nodes=8`. Raises the command's errors.

    >>> plan(model_config="llama-7b", bf16=True).fits                     # doctest: +SKIP
    True
    """
    if unknown := sorted(question.keys() - PlanQuestion.__dataclass_fields__.keys()):
        known = ", ".join(PlanQuestion.__dataclass_fields__)
        raise TypeError(f"plan() has no argument {', '.join(unknown)}; it has {known}")
    with quiet_libraries():
        return make_plan(PlanQuestion(model=None if model is None else os.fspath(model), **question))
