"""Internal names of torch, each with the reason why no public one does."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor, nn

# CPU flash attention with its log-sum-exp, which merges a segment with its prefix; scaled_dot_product_attention, the
# public call, keeps that to itself.
# (query, key, value [1, H, T, D], dropout, is_causal, *, attn_mask, scale) -> (output, log-sum-exp)
flash_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def onednn_linear_available() -> bool:
    """Whether this build of torch has oneDNN and its operator for a linear layer."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """rows [..., I] times the transpose of matrix [O, I], fp32 on CPU; nn.functional.linear takes the slower BLAS."""
    return torch.ops.mkldnn._linear_pointwise(rows, matrix, bias, "none", [], "")


def is_hooked(module: nn.Module) -> bool:
    """Whether a forward hook is registered, which a fused path would skip; torch has no public question for it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def openmp_entry() -> ctypes.c_void_p:
    """The address of GOMP_parallel as libtorch calls it: our kernels must share the OpenMP runtime that torch loaded.

    Raises OSError or AttributeError where libtorch is built without it.
    """
    of_torch = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    return ctypes.cast(of_torch.GOMP_parallel, ctypes.c_void_p)
