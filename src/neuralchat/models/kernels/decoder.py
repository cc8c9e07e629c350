"""The compiled functions of kernels/decoder.c on tensors: attention of a row of tokens over pages.

Shapes: T tokens of the row, C texts, H query heads, K key/value heads, D head size; pages of a layer in fp32 or bf16:
keys [pages, K, D, PAGE], values [pages, K, PAGE, D].
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


class TextsView(ctypes.Structure):
    """Of int32: tables [C, pages], the pages of each text; starts [C + 1], its first row; ends [C], its tokens."""

    _fields_ = [
        ("tables", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
        ("count", c_int64),
        ("table_size", c_int64),
    ]


class PagedLayerView(ctypes.Structure):
    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("scale", c_float),
    ]


@dataclass(frozen=True)
class PagedKernel:
    code: ctypes.CDLL

    def attention(
        self, query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, starts: Tensor, ends: Tensor, scale: float
    ) -> Tensor:
        """Outputs [T, H, D] of queries [T, H, D], each over the keys of its text up to its own.

        tables: int32 [C, pages]; starts: int32 [C + 1], where the row's tokens of each text begin; ends: int32 [C],
        tokens of each text, those of the row being its last.
        """
        queries = query.float().contiguous()
        output = torch.empty_like(queries)
        heads, kv_heads = query.shape[1], keys.shape[1]
        layer = PagedLayerView(keys.data_ptr(), values.data_ptr(), heads, kv_heads, scale)
        texts = TextsView(tables.data_ptr(), starts.data_ptr(), ends.data_ptr(), len(ends), tables.shape[1])
        status = self.code.paged_attention(
            ctypes.byref(layer), ctypes.byref(texts), pointer(queries), pointer(output), threads()
        )
        if status:
            raise MemoryError("attention over pages: no memory for its scores")
        return output.to(query.dtype)


def decoder_library(x: Tensor, head_size: int) -> ctypes.CDLL | None:
    """kernels/decoder.c for weights or keys of the device and dtype of `x`, or None."""
    return library_for(x, "decoder", HEAD_SIZE=head_size, PAGE=PAGE)


def paged_kernel_for(keys: Tensor) -> PagedKernel | None:
    """The kernel for pages like `keys`, or None where there is none."""
    code = decoder_library(keys, keys.shape[2])
    return None if code is None else PagedKernel(code)
