"""A layer in few bits is the linear layer of its numbers, forward and backward, and keeps nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from neuralchat.models.layers.fused_lora import FusedLoraLinear, fuse_lora
from neuralchat.models.layers.quantized_linear import (
    QuantizedLinear,
    dequantize_linears,
    in_fp32,
    quantize_linear,
)
from neuralchat.models.quantization.formats import BIT_FORMATS

pytestmark = [pytest.mark.usefixtures("kernels"), pytest.mark.parametrize("bits", BIT_FORMATS)]


class Two(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 130, bias=bias), nn.Linear(130, 37, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def pair(bits: int, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Two, Two]:
    """(two layers in few bits, ordinary ones with their numbers)."""
    torch.manual_seed(0)
    model = Two(bias=bias).to(dtype).requires_grad_(False)
    for layer in (model.first, model.second):
        quantize_linear(layer, bits, layer.weight, dtype)
    plain = copy.deepcopy(model)
    assert dequantize_linears(plain, torch.float32) == 2
    return model, plain.float()


@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_backward(bits: int, bias: bool) -> None:
    model, plain = pair(bits, bias=bias)
    x = torch.randn(1, 13, 24, requires_grad=True)
    expected, found = plain(x), model(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(found)
    # The second layer's matrix lies where the first one's was.
    (wanted,), (got,) = (torch.autograd.grad(y, x, grad) for y in (expected, found))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_in_bf16(bits: int) -> None:
    model, plain = pair(bits, dtype=torch.bfloat16)
    x = torch.randn(1, 13, 24).bfloat16()
    found = model(x)
    assert found.dtype == torch.bfloat16
    assert (found.float() - plain(x.float())).norm() <= 1e-2 * found.float().norm()


def test_backward_keeps_no_matrix(bits: int) -> None:
    model, _ = pair(bits)
    x = torch.randn(1, 2, 24, requires_grad=True)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    assert kept
    assert max(kept) <= 4 * 2 * 130


def test_a_weight_without_numbers_tells_whoever_reads_it(bits: int) -> None:
    model, _ = pair(bits)
    weight = model.first.weight
    assert weight.shape == (130, 24)
    assert weight.untyped_storage().nbytes() == 4
    assert torch.nn.functional.linear(torch.ones(1, 24), weight).isnan().all()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_lora_is_that_of_peft(bits: int, dropout: float, dtype: torch.dtype) -> None:
    model, plain = pair(bits, dtype=dtype)
    adapted: list[Any] = []
    for base in (model, plain):
        torch.manual_seed(1)
        config = LoraConfig(r=4, target_modules=["first", "second"], lora_dropout=dropout, init_lora_weights=False)
        adapted.append(get_peft_model(base, config).train())
    assert fuse_lora(adapted[0]) == 2
    assert type(adapted[0].base_model.model.first) is FusedLoraLinear
    x = torch.randn(1, 13, 24)
    found = []
    for one in adapted:
        torch.manual_seed(2)
        y = one(x.to(dtype if one is adapted[0] else torch.float32))
        trained = {name: p for name, p in one.named_parameters() if p.requires_grad}
        assert all(p.dtype == torch.float32 for p in trained.values()) or dtype == torch.bfloat16
        gradients = torch.autograd.grad(y.float().square().mean(), list(trained.values()))
        found.append([y, *gradients])
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for got, wanted in zip(*found, strict=True):
        assert (got.float() - wanted.float()).norm() <= tolerance * wanted.float().norm()


def test_other_dtypes_and_back(bits: int) -> None:
    model, plain = pair(bits, dtype=torch.bfloat16)
    in_fp32(model)
    assert model.first.weight.untyped_storage().nbytes() == 4
    x = torch.randn(3, 24)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)
    dequantize_linears(model, torch.float32)
    assert not any(isinstance(module, QuantizedLinear) for module in model.modules())
    torch.testing.assert_close(model(x), plain(x))
