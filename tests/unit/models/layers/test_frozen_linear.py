"""Products with frozen weights equal torch's, in fp32 and with widened bf16 weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuralchat.models.layers import frozen_linear as module
from neuralchat.models.layers.frozen_linear import FrozenLinear, freeze_linears, thaw_linears


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch, onednn: bool, weight_dtype: torch.dtype, bias: bool
) -> None:
    if onednn and not module.onednn_linear_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(module, "ONEDNN", onednn)
    # Several slices of the widened weight.
    monkeypatch.setattr(module, "SLICE_BYTES", 4 * 24 * 10)
    torch.manual_seed(0)
    layer = nn.Linear(24, 37, bias=bias).to(weight_dtype).requires_grad_(False)
    if bias:
        layer.bias.data = layer.bias.data.float()
    x = torch.randn(1, 13, 24, requires_grad=True)
    grad = torch.randn(1, 13, 37)
    expected = nn.functional.linear(x, layer.weight.float(), layer.bias)
    expected_grad = torch.autograd.grad(expected, x, grad)[0]
    assert freeze_linears(nn.Sequential(layer)) == 1
    found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found, x, grad)[0], expected_grad, rtol=1e-5, atol=1e-5)


def test_only_frozen_layers_change_and_come_back() -> None:
    frozen, trained = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4)
    model = nn.Sequential(frozen, trained)
    freeze_linears(model)
    assert (type(frozen), type(trained)) == (FrozenLinear, nn.Linear)
    thaw_linears(model)
    assert type(frozen) is nn.Linear


@pytest.mark.parametrize("bias", [True, False])
def test_what_it_gives_may_be_changed_in_place(bias: bool) -> None:
    """Gemma 3n multiplies what a linear layer gave, and torch forbids that of a view."""
    torch.manual_seed(0)
    layer = nn.Linear(24, 37, bias=bias).requires_grad_(False)
    x = torch.randn(2, 13, 24, requires_grad=True)
    expected = layer(x).mul(2).square().sum()
    freeze_linears(nn.Sequential(layer))
    changed = layer(x)
    changed *= 2
    found = changed.square().sum()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, x)[0], torch.autograd.grad(expected, x)[0])
