"""A weight in 8 bits: whole numbers from -127 to 127, and one scale for each output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuralchat.models.kernels.quantization import QuantizationKernels, quantization_kernels

LARGEST_CODE = 127.0


@dataclass(frozen=True, eq=False)
class Int8Weight:
    """weight [O, I] = codes int8 [O, I] * scales fp32 [O, 1]."""

    codes: Tensor
    scales: Tensor
    bits: ClassVar[int] = 8

    @classmethod
    def of(cls, weight: Tensor, *, compile_kernels: bool = True) -> Int8Weight:
        """`weight` [O, I] in fp32 or bf16, each row by its largest number."""
        weight = weight.contiguous()
        kernels = quantization_kernels(weight) if compile_kernels else None
        if kernels is None:
            numbers = weight.float()
            scales = numbers.abs().amax(dim=1) / LARGEST_CODE
            codes = (numbers / torch.where(scales > 0, scales, 1.0)[:, None]).round_().to(torch.int8)
            return cls(codes, scales)
        codes, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
        kernels.quantize_int8(weight, codes, scales)
        return cls(codes, scales)

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.codes, self.scales

    def write(self, weight: Tensor, kernels: QuantizationKernels | None) -> None:
        """`weight` [O, I], in fp32 or bf16, becomes the numbers that the codes stand for."""
        if kernels is None:
            weight.copy_(self.codes.float().mul_(self.scales[:, None]))
        else:
            kernels.widen_int8(self.codes, self.scales, weight)
