"""kernels/quantization.c as functions on tensors: weights to codes and scales, and back, in fp32 or bf16.

`quantization_kernels` gives them, or None. Shapes: weight [O, I]; B blocks of 64 numbers in a row, the last filled up.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_uint8
from dataclasses import dataclass

from torch import Tensor

from neuralchat.models.kernels.compiled import library_for
from neuralchat.models.kernels.elementwise import pointer, threads


@dataclass(frozen=True)
class QuantizationKernels:
    code: ctypes.CDLL

    def quantize_int8(self, weight: Tensor, codes: Tensor, scales: Tensor) -> None:
        """codes int8 [O, I] and scales fp32 [O] are written."""
        self.code.quantize_int8(
            pointer(weight), pointer(codes), pointer(scales), *outputs_and_inputs(weight), threads()
        )

    def widen_int8(self, codes: Tensor, scales: Tensor, weight: Tensor) -> None:
        """`weight` is written."""
        self.code.widen_int8(pointer(codes), pointer(scales), pointer(weight), *outputs_and_inputs(weight), threads())

    def quantize_nf4(self, weight: Tensor, middles: Tensor, zero: int, codes: Tensor, scales: Tensor) -> None:
        """codes uint8 [O, 32 B] and scales fp32 [O, B] are written. middles [15]: between the levels."""
        self.code.quantize_nf4(
            pointer(weight),
            pointer(middles),
            c_uint8(zero),
            pointer(codes),
            pointer(scales),
            *outputs_and_inputs(weight),
            threads(),
        )

    def widen_nf4(self, codes: Tensor, scales: Tensor, levels: Tensor, weight: Tensor) -> None:
        """`weight` is written. levels fp32 [16]."""
        self.code.widen_nf4(
            pointer(codes), pointer(scales), pointer(levels), pointer(weight), *outputs_and_inputs(weight), threads()
        )


def outputs_and_inputs(weight: Tensor) -> tuple[c_int64, c_int64]:
    outputs, inputs = weight.shape
    return c_int64(outputs), c_int64(inputs)


def quantization_kernels(weight: Tensor) -> QuantizationKernels | None:
    """The kernels for weights of the device and dtype of `weight`; None where there are none."""
    code = library_for(weight, "quantization")
    return None if code is None else QuantizationKernels(code)
