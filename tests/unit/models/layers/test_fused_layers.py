"""Fused layers equal the layers of transformers that they take over, value and gradient."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
from support.small_models import small_model
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama import modeling_llama
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from neuralchat.models.compat.transformers import rotary_function
from neuralchat.models.kernels.elementwise import Elementwise
from neuralchat.models.layers.fused import (
    FusedRMSNorm,
    FusedSwiGLU,
    fuse_mlps,
    fuse_norms,
    fuse_rotary,
    fused_rotary,
)

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("size", [48, 37])
def test_norm_value_and_gradient(size: int) -> None:
    torch.manual_seed(0)
    norm = LlamaRMSNorm(size, eps=1e-5).requires_grad_(False)
    norm.weight.data.normal_()
    fused = copy.deepcopy(norm)
    assert fuse_norms(nn.Sequential(fused)) == 1
    x, grad = torch.randn(2, 9, size, requires_grad=True), torch.randn(2, 9, size)
    torch.testing.assert_close(fused(x), norm(x), rtol=1e-5, atol=1e-6)
    expected = torch.autograd.grad(norm(x), x, grad)[0]
    torch.testing.assert_close(torch.autograd.grad(fused(x), x, grad)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("kernels")
def test_numbers_that_overflow_are_not_hidden() -> None:
    """Their squares are infinite and the norm would be zeros: a loss made of these would look sound."""
    norm = LlamaRMSNorm(32).requires_grad_(False)
    assert fuse_norms(nn.Sequential(norm)) == 1
    assert norm(torch.full((2, 32), 1e25)).isnan().all()


def test_norm_gradient_in_double() -> None:
    fused = LlamaRMSNorm(48, eps=1e-5).requires_grad_(False)
    assert fuse_norms(nn.Sequential(fused)) == 1
    x = torch.randn(3, 48, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fused.double(), x)


class GatedNorm(LlamaRMSNorm):
    """As Qwen3-Next has one: its forward takes a gate too."""

    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        normed = super().forward(hidden_states)
        return normed if gate is None else normed * nn.functional.silu(gate)


@pytest.mark.parametrize("reason", ["other formula", "other argument", "trained", "hook"])
def test_norms_that_are_left_alone(reason: str) -> None:
    norm: Any = LlamaRMSNorm(16).requires_grad_(False)
    if reason == "other formula":
        norm = GemmaRMSNorm(16).requires_grad_(False)
        norm.variance_epsilon = norm.eps
    elif reason == "other argument":
        norm = GatedNorm(16).requires_grad_(False)
    elif reason == "trained":
        norm.requires_grad_(True)
    else:
        norm.register_forward_hook(lambda _m, _i, output: output * 2)
    assert fuse_norms(nn.Sequential(norm)) == 0
    assert type(norm) is not FusedRMSNorm


def gated_mlp(activation: str = "silu") -> LlamaMLP:
    torch.manual_seed(0)
    return LlamaMLP(LlamaConfig(hidden_size=24, num_attention_heads=4, intermediate_size=61, hidden_act=activation))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu_value_and_gradients(kernels: str, dtype: torch.dtype) -> None:
    mlp = gated_mlp().to(dtype)
    fused = copy.deepcopy(mlp)
    assert fuse_mlps(nn.Sequential(fused)) == (1 if kernels == "compiled" else 0)
    x = (4 * torch.randn(1, 9, 24)).to(dtype)
    results = []
    for candidate in (mlp, fused):
        y = candidate(x)
        y.float().square().sum().backward()
        results.append([y.float(), *(p.grad.float() for p in candidate.parameters())])
    for expected, found in zip(*results, strict=True):
        assert (expected - found).norm() <= (1e-5 if dtype == torch.float32 else 2e-2) * expected.norm()


def test_another_activation_is_left_alone() -> None:
    assert fuse_mlps(nn.Sequential(gated_mlp("gelu"))) == 0


def test_without_kernels_a_fused_mlp_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = gated_mlp()
    x = torch.randn(1, 3, 24)
    monkeypatch.setattr("neuralchat.models.kernels.compiled.library", lambda _name, **_defines: None)
    torch.testing.assert_close(FusedSwiGLU.forward(mlp, x), mlp(x))


def test_rotary_value_and_gradients() -> None:
    plain = modeling_llama.apply_rotary_pos_emb
    torch.manual_seed(0)
    inputs = [torch.randn(1, 7, heads, 12).transpose(1, 2).requires_grad_() for heads in (4, 2)]
    # Halves that differ, so that a transposition of sines would show.
    cos, sin = torch.randn(1, 7, 12), torch.randn(1, 7, 12)
    results = []
    for function in (plain, fused_rotary(plain)):
        found = function(*inputs, cos, sin)
        gradients = torch.autograd.grad([x.square().sum() for x in found], inputs)
        results.append([*found, *gradients])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_rotary_of_a_padded_batch_is_left_to_transformers() -> None:
    plain = modeling_llama.apply_rotary_pos_emb
    q, k, turn = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 5, 8)
    for expected, found in zip(plain(q, k, turn, turn), fused_rotary(plain)(q, k, turn, turn), strict=True):
        assert torch.equal(expected, found)


@needs_gcc
def test_rotary_is_replaced_once_and_for_this_model_only() -> None:
    plain = modeling_llama.apply_rotary_pos_emb
    model, other = small_model("llama"), small_model("llama")
    assert (fuse_rotary(model), fuse_rotary(model)) == (2, 0)
    assert modeling_llama.apply_rotary_pos_emb is plain
    layers = [candidate.model.layers[0].self_attn for candidate in (model, other)]
    assert all(isinstance(layer, modeling_llama.LlamaAttention) for layer in layers)
    own, others = (rotary_function(type(layer)) for layer in layers)
    assert own.plain is plain
    assert others is plain


@needs_gcc
def test_the_fused_rotary_function_is_what_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = small_model("llama"), small_model("llama")
    fuse_rotary(model)
    calls: list[int] = []
    run = Elementwise.rotary
    monkeypatch.setattr(Elementwise, "rotary", lambda *args, **kwargs: (calls.append(1), run(*args, **kwargs))[1])
    ids = torch.arange(3, 12)[None]
    expected = other(input_ids=ids).logits
    assert not calls
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    # Queries and keys of two layers.
    assert len(calls) == 4


def test_another_rotary_formula_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, cos, sin: (q * cos[:, None], k))
    assert fuse_rotary(small_model("llama")) == 0
