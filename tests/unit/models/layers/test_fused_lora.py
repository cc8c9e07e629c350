"""Fused LoRA equals PEFT's, logits and every gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.small_models import CAUSAL_FAMILIES, small_model

from neuralchat.models.layers.frozen_linear import freeze_linears
from neuralchat.models.layers.fused_lora import fuse_lora


def lora(family: str, dropout: float) -> Any:
    model = get_peft_model(
        small_model(family), LoraConfig(r=4, lora_alpha=12, lora_dropout=dropout, target_modules="all-linear")
    )
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("family", CAUSAL_FAMILIES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_lora_logits_and_gradients(family: str, dropout: float) -> None:
    model = lora(family, dropout)
    fused = copy.deepcopy(model)
    assert freeze_linears(fused) > 0
    assert fuse_lora(fused) == 14
    ids = torch.arange(3, 33)[None]
    results = []
    for candidate in (model, fused):
        candidate.train()
        # The same dropout masks on both sides.
        torch.manual_seed(7)
        logits = candidate(input_ids=ids).logits
        logits.square().mean().backward()
        results.append((logits, {n: p.grad for n, p in candidate.named_parameters() if p.requires_grad}))
    (expected, gradients), (found, fused_gradients) = results
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    size = torch.stack([g.norm() for g in gradients.values()]).norm()
    for name, gradient in gradients.items():
        assert (fused_gradients[name] - gradient).norm() <= 1e-5 * size, name


def test_a_disabled_adapter_gives_the_base() -> None:
    model = lora("llama", 0.0)
    freeze_linears(model)
    fuse_lora(model)
    ids = torch.arange(3, 33)[None]
    with torch.no_grad(), model.disable_adapter():
        disabled = model(input_ids=ids).logits
    with torch.no_grad():
        base = small_model("llama")(input_ids=ids).logits
        adapted = model(input_ids=ids).logits
    torch.testing.assert_close(disabled, base, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(adapted, base, atol=1e-3)


def test_bf16_activations_with_fp32_matrices() -> None:
    model = lora("llama", 0.0).bfloat16()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    fused = copy.deepcopy(model)
    freeze_linears(fused)
    assert fuse_lora(fused) == 14
    gradients = []
    for candidate in (model, fused):
        candidate(input_ids=torch.arange(3, 33)[None]).logits.float().square().mean().backward()
        found = [p.grad for p in candidate.parameters() if p.requires_grad]
        assert {g.dtype for g in found} == {torch.float32}
        gradients.append(torch.cat([g.flatten() for g in found]))
    assert (gradients[0] - gradients[1]).norm() <= 3e-2 * gradients[0].norm()
