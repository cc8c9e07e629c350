"""The compiled layers of kernels/elementwise.c as functions on tensors in fp32 or bf16, without autograd.

`kernels_for` gives them for a tensor, or None. Shapes: T tokens, E hidden size, H heads, D head size, V vocabulary.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int64
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuralchat.models.kernels.compiled import library_for, takes_kernels


def pointer(x: Tensor) -> ctypes.c_void_p:
    """Where a tensor without gaps begins."""
    assert x.is_contiguous()
    return ctypes.c_void_p(x.data_ptr())


def threads() -> c_int:
    return c_int(torch.get_num_threads())


@dataclass(frozen=True)
class Elementwise:
    code: ctypes.CDLL

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """x [..., E] -> (x / rms(x) * weight, 1 / rms(x) of each row in fp32)."""
        size = x.shape[-1]
        y, inverse = torch.empty_like(x), x.new_empty(x.numel() // size, dtype=torch.float32)
        self.code.rms_norm_forward(
            pointer(x),
            pointer(weight),
            c_float(epsilon),
            pointer(y),
            pointer(inverse),
            c_int64(len(inverse)),
            c_int64(size),
            threads(),
        )
        return y, inverse

    def rms_norm_gradient(self, grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
        grad, grad_x = grad.contiguous(), torch.empty_like(x)
        self.code.rms_norm_backward(
            pointer(grad),
            pointer(x),
            pointer(weight),
            pointer(inverse),
            pointer(grad_x),
            c_int64(len(inverse)),
            c_int64(x.shape[-1]),
            threads(),
        )
        return grad_x

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up."""
        y = torch.empty_like(gate)
        self.code.swiglu_forward(pointer(gate), pointer(up), pointer(y), c_int64(gate.numel()), threads())
        return y

    def swiglu_gradients(self, grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        grad, grad_gate, grad_up = grad.contiguous(), torch.empty_like(gate), torch.empty_like(up)
        self.code.swiglu_backward(
            pointer(grad),
            pointer(gate),
            pointer(up),
            pointer(grad_gate),
            pointer(grad_up),
            c_int64(gate.numel()),
            threads(),
        )
        return grad_gate, grad_up

    def rotary(self, x: Tensor, cosine: Tensor, sine: Tensor, *, transposed: bool = False) -> Tensor:
        """x [1, H, T, D] turned by its positions, or with `transposed` the gradient of that; laid out [T, H, D]."""
        _, heads, tokens, size = x.shape
        x = x if x.stride(3) == 1 else x.contiguous()
        y = x.new_empty(1, tokens, heads, size)
        self.code.rotary(
            ctypes.c_void_p(x.data_ptr()),
            c_int64(x.stride(2)),
            c_int64(x.stride(1)),
            pointer(cosine),
            pointer(sine),
            c_int(transposed),
            pointer(y),
            c_int64(tokens),
            c_int64(heads),
            c_int64(size),
            threads(),
        )
        return y.transpose(1, 2)

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses of each row, fp32 [C]; `logits` [C, V] become softmax - one_hot(targets), their gradient."""
        losses = logits.new_empty(len(logits), dtype=torch.float32)
        self.code.cross_entropy(
            pointer(logits),
            pointer(targets.contiguous()),
            pointer(losses),
            c_int64(len(logits)),
            c_int64(logits.shape[1]),
            threads(),
        )
        return losses


def kernels_for(x: Tensor, module: nn.Module | None = None) -> Elementwise | None:
    """The kernels for a tensor like `x`; None where there are none, or where `module` is to do without."""
    if not takes_kernels(module):
        return None
    code = library_for(x, "elementwise")
    return None if code is None else Elementwise(code)
