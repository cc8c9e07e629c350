"""Fused layers equal the layers of transformers and PEFT that they take over, value and every gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_models import CAUSAL_FAMILIES, small_model
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from neuralchat.models.frozen_linear import freeze_linears
from neuralchat.models.fused_layers import FusedRMSNorm, fuse_lora, fuse_norms


def test_norm_value_and_gradient() -> None:
    torch.manual_seed(0)
    norm = LlamaRMSNorm(48, eps=1e-5).requires_grad_(False)
    norm.weight.data.normal_()
    fused = copy.deepcopy(norm)
    assert fuse_norms(nn.Sequential(fused)) == 1
    x, grad = torch.randn(2, 9, 48, requires_grad=True), torch.randn(2, 9, 48)
    torch.testing.assert_close(fused(x), norm(x), rtol=1e-5, atol=1e-6)
    expected = torch.autograd.grad(norm(x), x, grad)[0]
    torch.testing.assert_close(torch.autograd.grad(fused(x), x, grad)[0], expected, rtol=1e-5, atol=1e-5)
    reference = torch.autograd.gradcheck(
        lambda x: type(fused).forward(fused.double(), x), torch.randn(3, 48, dtype=torch.float64, requires_grad=True)
    )
    assert reference


@pytest.mark.parametrize("reason", ["other formula", "trained", "bf16", "hook"])
def test_norms_that_are_left_alone(reason: str) -> None:
    norm: Any = LlamaRMSNorm(16).requires_grad_(False)
    if reason == "other formula":
        norm = GemmaRMSNorm(16).requires_grad_(False)
        norm.variance_epsilon = norm.eps
    elif reason == "trained":
        norm.requires_grad_(True)
    elif reason == "bf16":
        norm = norm.bfloat16()
    else:
        norm.register_forward_hook(lambda _m, _i, output: output * 2)
    assert fuse_norms(nn.Sequential(norm)) == 0
    assert type(norm) is not FusedRMSNorm


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
