"""A weight in 4 bits: NormalFloat levels, a scale for each block of 64, and these scales in 8 bits themselves.

https://arxiv.org/abs/2305.14314 (QLoRA), section 3: 4-bit NormalFloat and double quantization. The levels are those of
its appendix E. There the scales, less their mean, become 8-bit floats in groups of 256; here whole numbers, which are
nearer to them (an eighth of the error).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuralchat.models.kernels.quantization import QuantizationKernels, quantization_kernels
from neuralchat.models.quantization.int8 import LARGEST_CODE

LEVELS = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip
MIDDLES = (LEVELS[1:] + LEVELS[:-1]) / 2
ZERO = 7
BLOCK, GROUP = 64, 256
# Numbers that the twin in torch looks at together, whose indices take eight bytes each.
TOGETHER = 1 << 20


@dataclass(frozen=True, eq=False)
class Nf4Weight:
    """codes uint8 [O, 32 B]: two levels in a byte, B blocks of 64 numbers in a row, the last filled up with zeros.

    The scale of a block = scale_codes int8 [G, 256] * its group's scale fp32 [G, 1] + offset fp32 [1].
    """

    shape: tuple[int, int]
    codes: Tensor
    scale_codes: Tensor
    group_scales: Tensor
    offset: Tensor
    bits: ClassVar[int] = 4

    @classmethod
    def of(cls, weight: Tensor, *, compile_kernels: bool = True) -> Nf4Weight:
        """`weight` [O, I] in fp32 or bf16, each number the level next to it."""
        weight = weight.contiguous()
        outputs, inputs = weight.shape
        blocks = -(-inputs // BLOCK)
        codes = torch.empty(outputs, blocks * BLOCK // 2, dtype=torch.uint8)
        scales = torch.empty(outputs, blocks)
        kernels = quantization_kernels(weight) if compile_kernels else None
        if kernels is None:
            for rows in row_slices(outputs, inputs):
                codes[rows], scales[rows] = codes_and_scales(weight[rows])
        else:
            kernels.quantize_nf4(weight, MIDDLES, ZERO, codes, scales)
        return cls((outputs, inputs), codes, *quantized_scales(scales.flatten()))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.codes, self.scale_codes, self.group_scales, self.offset

    @property
    def scales(self) -> Tensor:
        """fp32 [O, B]."""
        found = self.scale_codes.float().mul_(self.group_scales).add_(self.offset)
        outputs, blocks = len(self.codes), self.codes.shape[1] * 2 // BLOCK
        return found.flatten()[: outputs * blocks].view(outputs, blocks)

    def write(self, weight: Tensor, kernels: QuantizationKernels | None) -> None:
        """`weight` [O, I], in fp32 or bf16, becomes the numbers that the codes stand for."""
        scales = self.scales
        if kernels is not None:
            kernels.widen_nf4(self.codes, scales, LEVELS, weight)
            return
        outputs, inputs = self.shape
        for rows in row_slices(outputs, inputs):
            packed = self.codes[rows].view(-1, scales.shape[1], BLOCK // 2)
            places = torch.cat([packed & 15, packed >> 4], dim=2)
            weight[rows] = (LEVELS[places.long()] * scales[rows, :, None]).flatten(1)[:, :inputs].to(weight.dtype)


def row_slices(outputs: int, inputs: int) -> list[slice]:
    rows = max(1, TOGETHER // inputs)
    return [slice(start, start + rows) for start in range(0, outputs, rows)]


def codes_and_scales(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of some rows: (uint8 [R, 32 B], fp32 [R, B])."""
    numbers = torch.nn.functional.pad(weight.float(), (0, -weight.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    scales = numbers.abs().amax(dim=2)
    places = torch.bucketize(numbers / torch.where(scales > 0, scales, 1.0)[..., None], MIDDLES).to(torch.uint8)
    low, high = places.split(BLOCK // 2, dim=2)
    return (low | high << 4).flatten(1), scales


def quantized_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """scales fp32 [N] -> (codes int8 [G, 256], scale of each group fp32 [G, 1], mean fp32 [1])."""
    offset = scales.mean(dtype=torch.float64).float().view(1)
    centred = torch.nn.functional.pad(scales - offset, (0, -len(scales) % GROUP)).view(-1, GROUP)
    group_scales = centred.abs().amax(dim=1, keepdim=True) / LARGEST_CODE
    codes = (centred / torch.where(group_scales > 0, group_scales, 1.0)).round_().to(torch.int8)
    return codes, group_scales, offset
