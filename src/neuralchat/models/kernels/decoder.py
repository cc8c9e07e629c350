"""The compiled functions of kernels/decoder.c on tensors: attention of single tokens over pages.

Shapes: C texts, H query heads, K key/value heads, D head size; pages of a layer [pages, K, PAGE, D] in fp32 or bf16.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralchat.models.kernels.compiled import library_for
from neuralchat.models.kernels.elementwise import pointer, threads

# Tokens whose keys and values lie together.
PAGE = 16


@dataclass(frozen=True)
class PagedKernel:
    code: ctypes.CDLL

    def attention(
        self, query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, scale: float
    ) -> Tensor:
        """Outputs [C, H, D] of one query [C, H, D] of each text over all its keys.

        tables: int32 [at least C, pages]; lengths: int32 [at least C], tokens of each text.
        """
        queries = query.float().contiguous()
        output = torch.empty_like(queries)
        status = self.code.paged_attention(
            pointer(queries),
            pointer(keys),
            pointer(values),
            pointer(tables),
            pointer(lengths),
            c_int64(len(query)),
            c_int64(tables.shape[1]),
            c_int64(query.shape[1]),
            c_int64(keys.shape[1]),
            c_float(scale),
            pointer(output),
            threads(),
        )
        if status:
            raise MemoryError("attention over pages: no memory for its scores")
        return output.to(query.dtype)


def decoder_library(x: Tensor, head_size: int) -> ctypes.CDLL | None:
    """kernels/decoder.c for weights or keys of the device and dtype of `x`, or None."""
    return library_for(x, "decoder", HEAD_SIZE=head_size, PAGE=PAGE)


def paged_kernel_for(keys: Tensor) -> PagedKernel | None:
    """The kernel for pages like `keys`, or None where there is none."""
    code = decoder_library(keys, keys.shape[3])
    return None if code is None else PagedKernel(code)
