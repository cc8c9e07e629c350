"""models/adapters/targets.py: which layers get LoRA where nobody names them, in every family that PEFT knows or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.families import FAMILIES, family_config
from torch import nn

from neuralchat.config.arguments import TuningArguments
from neuralchat.models.adapters.build import add_adapter
from neuralchat.models.adapters.rehearsal import skeleton_of
from neuralchat.models.adapters.targets import ROUTERS
from neuralchat.models.compat.peft import LORA_TARGETS

PLAIN = TuningArguments(lora_all_linear=False)


def adapted(family: str, tuning: TuningArguments = PLAIN) -> tuple[Any, list[str]]:
    """(a model without memory, with LoRA; what was told)."""
    told: list[str] = []
    with torch.device("meta"):
        return add_adapter(skeleton_of(family_config(family)), tuning, tell=told.append), told


def layers_with_lora(model: Any) -> set[str]:
    return {name for name, module in model.get_base_model().named_modules() if hasattr(module, "lora_A")}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_default_layers_and_they_are_told(family: str) -> None:
    model, told = adapted(family)
    layers = layers_with_lora(model)
    assert layers
    base = model.get_base_model()
    assert base.get_output_embeddings() is None or not hasattr(base.get_output_embeddings(), "lora_A")
    names = {layer.rpartition(".")[2] for layer in layers}
    assert names & ROUTERS == set()
    known = LORA_TARGETS.get(base.config.model_type)
    if names <= set(known or ()):
        assert told == []
    else:
        (line,) = told
        assert line.startswith("LoRA is put into all linear layers but the head: ")
        listed = line.partition(": ")[2].partition(" (")[0].split(", ")
        assert names == {name.rpartition(".")[2] for name in listed}


# Families of which PEFT knows no layers.
@pytest.mark.parametrize("family", ["phi3", "olmo2", "smollm3", "glm", "granite", "starcoder2", "cohere", "ministral3"])
def test_all_linear_layers_but_the_head(family: str) -> None:
    if family in LORA_TARGETS:
        pytest.skip("PEFT knows it by now")
    skeleton = skeleton_of(family_config(family))
    head = skeleton.get_output_embeddings()
    linear = {name for name, m in skeleton.named_modules() if isinstance(m, nn.Linear) and m is not head}
    model, told = adapted(family)
    assert layers_with_lora(model) == linear
    assert len(told) == 1
