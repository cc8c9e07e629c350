"""The compiled attention of kernels/segment_attention.c behind two functions on tensors.

Shapes: T tokens of the row, P leading keys that have no queries, H query heads, K key/value heads, D head size.
query [1, H, T, D]; key, value [1, K, P + T, D]; output [1, H, T, D] laid out as [T, H, D], all in fp32 or bf16;
lse fp32 [1, H, T].
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralchat.data.packing import Segment
from neuralchat.models.kernels.compiled import library_for


class View(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("token", ctypes.c_int64), ("head", ctypes.c_int64)]

    @classmethod
    def of(cls, x: Tensor) -> View:
        assert x.stride(3) == 1
        return cls(x.data_ptr(), x.stride(2), x.stride(1))


class Row(ctypes.Structure):
    _fields_ = [
        ("q", View),
        ("k", View),
        ("v", View),
        ("segments", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("leading", ctypes.c_int64),
        ("slopes", ctypes.c_void_p),
        ("scale", ctypes.c_float),
    ]


@dataclass(frozen=True)
class SegmentKernel:
    code: ctypes.CDLL

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: Sequence[Segment],
        scale: float,
        slopes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(output, log-sum-exp of each query's scores)."""
        _, heads, tokens, size = query.shape
        output = query.new_empty(1, tokens, heads, size).transpose(1, 2)
        lse = query.new_empty(1, heads, tokens, dtype=torch.float32)
        places = longest_first(segments)
        row = make_row(query, key, value, places, scale, slopes)
        check(
            self.code.segment_attention_forward(
                ctypes.byref(row), address_of(output), address_of(lse), torch.get_num_threads()
            )
        )
        return output, lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        lse: Tensor,
        segments: Sequence[Segment],
        scale: float,
        slopes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value, laid out as [tokens, heads, D]."""
        # Many tasks add to the gradients of keys and values: in fp32.
        dtypes = (query.dtype, torch.float32, torch.float32)
        grads = [
            x.new_empty(x.transpose(1, 2).shape, dtype=dtype).transpose(1, 2)
            for x, dtype in zip((query, key, value), dtypes, strict=True)
        ]
        grad = grad if grad.stride(3) == 1 else grad.contiguous()
        view = View.of(grad)
        places = longest_first(segments)
        row = make_row(query, key, value, places, scale, slopes)
        check(
            self.code.segment_attention_backward(
                ctypes.byref(row),
                ctypes.byref(view),
                address_of(output),
                address_of(lse),
                *(address_of(x) for x in grads),
                torch.get_num_threads(),
            )
        )
        return grads[0], grads[1].to(key.dtype), grads[2].to(value.dtype)


def make_row(query: Tensor, key: Tensor, value: Tensor, places: Tensor, scale: float, slopes: Tensor | None) -> Row:
    """The arguments of one call in C. It holds pointers only, so the tensors must outlive the call."""
    leading = key.shape[2] - query.shape[2]
    return Row(
        View.of(query),
        View.of(key),
        View.of(value),
        places.data_ptr(),
        len(places),
        query.shape[2],
        query.shape[1],
        key.shape[1],
        leading,
        None if slopes is None else slopes.data_ptr(),
        scale,
    )


@functools.lru_cache(maxsize=64)
def longest_first(segments: tuple[Segment, ...]) -> Tensor:
    """Segments as int64 [segments, 4], the costliest first, so that threads finish at about the same time."""

    def cost(s: Segment) -> int:
        return (s.end - s.start) * (s.prefix_end - s.prefix_start + s.end - s.start)

    ordered = sorted(segments, key=cost, reverse=True)
    return torch.tensor([[s.prefix_start, s.prefix_end, s.start, s.end] for s in ordered], dtype=torch.int64)


def address_of(x: Tensor) -> ctypes.c_void_p:
    """Where a tensor begins, whatever its strides."""
    return ctypes.c_void_p(x.data_ptr())


def check(status: int) -> None:
    if status:
        raise MemoryError("attention: no memory for its work space; lower --micro_batch_tokens")


def kernel_for(query: Tensor) -> SegmentKernel | None:
    """The kernel for a tensor like `query`, or None where there is none."""
    code = library_for(query, "segment_attention", HEAD_SIZE=query.shape[3])
    return None if code is None else SegmentKernel(code)
