"""A quantized weight as a matrix, for the moment of its product: written into a buffer that every layer uses again."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from neuralchat.models.kernels.quantization import quantization_kernels
from neuralchat.models.quantization.formats import QuantizedWeight


class Scratch(threading.local):
    """The buffer of a thread, for each dtype as large as the largest weight so far."""

    def __init__(self) -> None:
        self.buffers: dict[torch.dtype, Tensor] = {}

    def matrix(self, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape)
        buffer = self.buffers.get(dtype)
        if buffer is None or buffer.numel() < size:
            # The smaller one is given back first.
            self.buffers.pop(dtype, None)
            # Also where inference goes first, training has to use it.
            with torch.inference_mode(mode=False):
                buffer = self.buffers[dtype] = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)


SCRATCH = Scratch()


@torch.no_grad()
def widened(quantized: QuantizedWeight, dtype: torch.dtype, *, kernels: bool = True) -> Tensor:
    """The weight [O, I] in fp32 or bf16, which the next call of this thread overwrites."""
    matrix = SCRATCH.matrix(quantized.shape, dtype)
    quantized.write(matrix, quantization_kernels(matrix) if kernels else None)
    return matrix
