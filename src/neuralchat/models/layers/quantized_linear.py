"""A linear layer whose weight is kept in 8 or 4 bits and is a matrix only while it is used; decision 023.

Shapes: I inputs, O outputs; weight [O, I].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from neuralchat.models.kernels.compiled import takes_kernels
from neuralchat.models.layers.frozen_linear import FrozenProduct
from neuralchat.models.quantization.formats import BIT_FORMATS, QuantizedWeight
from neuralchat.models.quantization.widening import widened


@dataclass(frozen=True, eq=False)
class WidenedWhenUsed:
    """What products take in the place of a weight [O, I]."""

    quantized: QuantizedWeight
    kernels: bool

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """See `widened`."""
        return widened(self.quantized, dtype, kernels=self.kernels)


class QuantizedLinear(nn.Linear):
    """Takes over from nn.Linear in place. Its `weight` has the right shape and the dtype of the arithmetic and holds no
    number, one NaN for all places: whoever reads it by itself, and not what the layer computes, is told by the result.
    """

    quantized: QuantizedWeight
    # Of models/kernels/compiled.py.
    neuralchat_kernels_to_the_bit = True

    @property
    def stored(self) -> WidenedWhenUsed:
        return WidenedWhenUsed(self.quantized, takes_kernels(self))

    def forward(self, x: Tensor) -> Tensor:
        return FrozenProduct.apply(x, self.stored, None if self.bias is None else self.bias.detach())


def stand_in(shape: Any, dtype: torch.dtype) -> nn.Parameter:
    """A weight without numbers, of one number's memory."""
    return nn.Parameter(torch.full((1, 1), torch.nan, dtype=dtype).expand(*shape), requires_grad=False)


def quantize_linear(layer: nn.Linear, bits: int, weight: Tensor, compute: torch.dtype) -> nn.Parameter:
    """Turn `layer` into one that keeps `weight` [O, I] in `bits` bits; returns what is its weight from here on."""
    quantized = BIT_FORMATS[bits].quantize(weight)
    layer.__class__ = QuantizedLinear
    layer.quantized = quantized
    layer.weight = stand_in(weight.shape, compute)
    return layer.weight


def quantized_numbers(model: nn.Module) -> dict[int, int]:
    """How many weights of a model are kept in few bits: by the number of bits."""
    layers = [module for module in model.modules() if is_quantized(module)]
    counts: dict[int, int] = dict.fromkeys((layer.quantized.bits for layer in layers), 0)
    for layer in layers:
        counts[layer.quantized.bits] += layer.weight.numel()
    return counts


def dequantize_linears(model: nn.Module, dtype: torch.dtype) -> int:
    """Give every quantized layer of `model` the numbers that its codes stand for, as nn.Linear; returns how many."""
    count = 0
    for module in model.modules():
        if is_quantized(module):
            matrix = module.stored.matrix(dtype).clone()
            del module.quantized
            module.__class__ = nn.Linear  # type: ignore[assignment]
            module.weight = nn.Parameter(matrix, requires_grad=False)
            count += 1
    return count


def in_fp32(model: Any) -> Any:
    """`model.float()`; quantized layers keep their codes."""
    for module in model.modules():
        if is_quantized(module):
            # First, since to change its dtype would make as many numbers as it stands for.
            module.weight = stand_in(module.weight.shape, torch.float32)
    return model.float()


def is_quantized(module: Any) -> TypeGuard[QuantizedLinear]:
    return type(module) is QuantizedLinear
