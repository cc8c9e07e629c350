"""--bits: how the frozen weights of linear layers are kept, a row for each value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from neuralchat.models.kernels.quantization import QuantizationKernels
from neuralchat.models.quantization.int8 import Int8Weight
from neuralchat.models.quantization.nf4 import BLOCK, GROUP, Nf4Weight


class QuantizedWeight(Protocol):
    """A weight [O, I] as it is kept."""

    @property
    def bits(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def tensors(self) -> tuple[Tensor, ...]: ...

    def write(self, weight: Tensor, kernels: QuantizationKernels | None) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """`quantize`: (weight [O, I] in fp32 or bf16) -> how it is kept. `name`: as people call it. `finer_bits`: those of
    small layers that suffer most from rounding (choosing.py).
    """

    bits: int
    name: str
    quantize: Callable[..., Any]
    # With its scales, of wide rows.
    bytes_per_weight: float
    finer_bits: int


BIT_FORMATS = {
    row.bits: row
    for row in (
        Format(bits=8, name="int8", quantize=Int8Weight.of, bytes_per_weight=1.0, finer_bits=8),
        Format(
            bits=4, name="nf4", quantize=Nf4Weight.of, bytes_per_weight=0.5 + 1 / BLOCK + 4 / (BLOCK * GROUP),
            finer_bits=8,
        ),
    )
}  # fmt: skip


def kinds_of_numbers(bits: int) -> str:
    """
    >>> kinds_of_numbers(4), kinds_of_numbers(8)
    ('nf4, int8', 'int8')
    """
    row = BIT_FORMATS[bits]
    return ", ".join(dict.fromkeys((row.name, BIT_FORMATS[row.finer_bits].name)))
