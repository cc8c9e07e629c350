"""A run to repeat, and the model here -> the layers that have LoRA in one of the two only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neuralchat.checkpointing.fingerprint import SHAPING, differences
from neuralchat.checkpointing.select import identity_of_run
from neuralchat.config.arguments import TuningArguments
from neuralchat.errors import RunDirectoryError
from neuralchat.models.loading.checkpoint_files import safetensors_shapes
from neuralchat.runs.directory import ADAPTER

LORA = ".lora_"
# It says which layers have LoRA, so it is what allows others.
ALLOWED_BY = "lora_target_modules"


def check_same_layers(model: Any, identity: Mapping[str, Any], tuning: TuningArguments) -> str | None:
    """Compare with the run that --from_run names, if any; a notice where other layers were allowed.

    Which layers take LoRA by themselves is no argument: versions differ in it, as in what chooses experts. What other
    arguments or another model say of it is told already. Raises RunDirectoryError where it was not allowed.
    """
    if tuning.from_run is None:
        return None
    run = Path(tuning.from_run)
    if not (run / ADAPTER).is_file() or differences(identity_of_run(run), identity).keys() & {*SHAPING, "base_model"}:
        return None
    before = layers_of(safetensors_shapes(run / ADAPTER))
    now = layers_of(name for name, _ in model.named_parameters())
    changes = [
        f"{what} {', '.join(sorted(layers))}"
        for what, layers in (("no longer on", before - now), ("now on", now - before))
        if layers
    ]
    if not changes:
        return None
    found = f"LoRA is put on other layers than in {run}, whose version chose otherwise: {'; '.join(changes)}"
    if {ALLOWED_BY, "all"}.isdisjoint(tuning.allow_changed):
        raise RunDirectoryError(
            f"{found}\nThe result would be another; accept the change with --allow_changed {ALLOWED_BY}, or repeat it "
            "with the version that made it"
        )
    return found


def layers_of(names: Iterable[str]) -> set[str]:
    """The layers of weights of LoRA, those of all blocks as one.

    >>> sorted(layers_of(["model.layers.7.q.lora_A.weight", "model.layers.8.q.lora_B.weight", "model.embed.weight"]))
    ['model.layers.*.q']
    """
    layers = {name.partition(LORA)[0].removeprefix("base_model.model.") for name in names if LORA in name}
    return {re.sub(r"\.\d+(?=\.)", ".*", layer) for layer in layers}
