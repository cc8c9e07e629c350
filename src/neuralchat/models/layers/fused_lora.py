"""LoRA without extra passes: the low-rank product is added inside the matrix product (addmm).

No T x O array is made, scaled or summed besides the output itself.

Shapes: T tokens, I inputs, O outputs, r rank; A [r, I], B [O, r], weight [O, I].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neuralchat.models.compat.peft import LoraLinear, PlainLora, plain_lora
from neuralchat.models.layers.frozen_linear import FrozenLinear, StoredWeight, matmul_by, matmul_by_transposed
from neuralchat.models.layers.quantized_linear import QuantizedLinear

FROZEN = (FrozenLinear, QuantizedLinear)


class LoraProduct(torch.autograd.Function):
    """x @ weight.T + bias + scaling * (dropped @ A.T) @ B.T, where only A and B are trained, or B alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor,
        weight: Tensor | StoredWeight,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        ctx.dtype_a, ctx.dtype_b = a.dtype, b.dtype
        # The products run in the dtype of the activations; gradients end in that of A and B.
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = dropped.flatten(0, -2) @ a.t()
        y = matmul_by_transposed(x, weight)
        if bias is not None:
            y += bias
        y.flatten(0, -2).addmm_(low, b.t(), alpha=scaling)
        ctx.save_for_backward(dropped, low, a, b)
        ctx.weight, ctx.scaling, ctx.same = weight, scaling, dropped is x
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dropped, low, a, b = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        grad_low = (rows @ b).mul_(ctx.scaling)
        grad_a = (grad_low.t() @ dropped.flatten(0, -2)).to(ctx.dtype_a) if ctx.needs_input_grad[4] else None
        grad_b = (rows.t() @ low).mul_(ctx.scaling)
        grad_x = matmul_by(grad, ctx.weight) if ctx.needs_input_grad[0] else None
        grad_dropped = None
        if ctx.same:
            # One input: its two gradients are one, added inside the product.
            if grad_x is not None:
                grad_x.flatten(0, -2).addmm_(grad_low, a)
        elif ctx.needs_input_grad[1]:
            grad_dropped = (grad_low @ a).view_as(dropped)
        return grad_x, grad_dropped, None, None, grad_a, grad_b.to(ctx.dtype_b), None


class FusedLoraLinear(LoraLinear):
    """Takes over a LoRA layer in place; whatever is not plain LoRA goes PEFT's own way."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base: Any = self.base_layer
        lora = plain_lora(self)
        if args or kwargs or lora is None or not runs_fused(base, lora, x):
            return super().forward(x, *args, **kwargs)
        dropped = x if isinstance(lora.dropout, nn.Identity) or not self.training else lora.dropout(x)
        bias = None if base.bias is None else base.bias.detach()
        weight = base.stored if type(base) is QuantizedLinear else base.weight.detach()
        return LoraProduct.apply(x, dropped, weight, bias, lora.a, lora.b, lora.scaling)


def runs_fused(base: Any, lora: PlainLora, x: Tensor) -> bool:
    alike = x.dtype in (base.weight.dtype, lora.a.dtype) and not torch.is_autocast_enabled(x.device.type)
    return type(base) in FROZEN and alike


def fuse_lora(model: nn.Module) -> int:
    """Turn every LoRA layer around a frozen linear layer into a FusedLoraLinear; returns how many."""
    count = 0
    for module in model.modules():
        if type(module) is LoraLinear and type(module.base_layer) in FROZEN:
            module.__class__ = FusedLoraLinear
            count += 1
    return count
