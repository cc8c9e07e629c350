"""Layers of transformers and PEFT with fewer passes over the activations, same formulas, proven before they go in.

RMSNorm: three passes forward instead of seven, and a backward of its own. LoRA: the low-rank product is added inside
the matrix product (addmm), so no T x out array is made, scaled or summed besides the output itself.

Shapes: T tokens, I inputs, O outputs, r rank; A [r, I], B [O, r], weight [O, I].
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from neuralchat.models.frozen_linear import FrozenLinear, matmul_by, matmul_by_transposed


class RMSNormProduct(torch.autograd.Function):
    """x / rms(x) * weight, weight not trained (https://arxiv.org/abs/1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean_square.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        scaled = grad * weight
        along = (scaled * x).sum(dim=-1, keepdim=True).mul_(inverse.pow(3)).div_(-x.shape[-1])
        return torch.addcmul(scaled.mul_(inverse), x, along), None, None


class FusedRMSNorm(nn.Module):
    """Takes over an RMSNorm in place; its weight and variance_epsilon stay where they are."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        return RMSNormProduct.apply(hidden_states, self.weight.detach(), self.variance_epsilon)


def fuse_norms(model: nn.Module) -> int:
    """Fuse every frozen fp32 RMSNorm whose outputs on random numbers equal the fused ones; returns how many."""
    count = 0
    proven: dict[type, bool] = {}
    for module in model.modules():
        kind = type(module)
        weight = getattr(module, "weight", None)
        if not hasattr(module, "variance_epsilon") or not isinstance(weight, Tensor) or kind is FusedRMSNorm:
            continue
        if weight.dtype != torch.float32 or weight.requires_grad or module._forward_hooks or module._forward_pre_hooks:
            continue
        if kind not in proven:
            proven[kind] = computes_rms_norm(module, weight)
        if proven[kind]:
            module.__class__ = FusedRMSNorm
            count += 1
    return count


def computes_rms_norm(module: nn.Module, weight: Tensor) -> bool:
    x = torch.randn(3, weight.shape[-1], generator=torch.Generator().manual_seed(0)).to(weight.device)
    with torch.no_grad():
        fused = RMSNormProduct.apply(x, weight, module.variance_epsilon)
        return torch.allclose(module(x), fused, rtol=1e-5, atol=1e-6)


class LoraProduct(torch.autograd.Function):
    """x @ weight.T + bias + scaling * (dropped @ A.T) @ B.T, where only A and B are trained."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
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
        grad_a = grad_low.t() @ dropped.flatten(0, -2)
        grad_b = (rows.t() @ low).mul_(ctx.scaling)
        grad_x = matmul_by(grad, ctx.weight) if ctx.needs_input_grad[0] else None
        grad_dropped = None
        if ctx.same:
            # One input: its two gradients are one, added inside the product.
            if grad_x is not None:
                grad_x.flatten(0, -2).addmm_(grad_low, a)
        elif ctx.needs_input_grad[1]:
            grad_dropped = (grad_low @ a).view_as(dropped)
        return grad_x, grad_dropped, None, None, grad_a, grad_b, None


class FusedLoraLinear(LoraLinear):
    """Takes over a LoRA layer in place; whatever is not plain LoRA in fp32 goes PEFT's own way."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base: Any = self.base_layer
        names = self.active_adapters
        name: Any = names[0] if len(names) == 1 and names[0] in self.lora_A else None
        if args or kwargs or name is None or not self.is_plain(name, base, x):
            return super().forward(x, *args, **kwargs)
        dropout = self.lora_dropout[name]
        dropped = x if isinstance(dropout, nn.Identity) or not self.training else dropout(x)
        bias = None if base.bias is None else base.bias.detach()
        a, b = (module[name].weight for module in (self.lora_A, self.lora_B))
        return LoraProduct.apply(x, dropped, base.weight.detach(), bias, a, b, self.scaling[name])

    def is_plain(self, name: Any, base: Any, x: Tensor) -> bool:
        a, b = self.lora_A[name], self.lora_B[name]
        changed = self.disable_adapters or self.merged or self.lora_variant.get(name)
        fp32 = x.dtype == a.weight.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
        return type(base) is FrozenLinear and fp32 and not changed and a.bias is None and b.bias is None


def fuse_lora(model: nn.Module) -> int:
    """Turn every LoRA layer around a frozen linear layer into a FusedLoraLinear; returns how many."""
    count = 0
    for module in model.modules():
        if type(module) is LoraLinear and type(module.base_layer) is FrozenLinear:
            module.__class__ = FusedLoraLinear
            count += 1
    return count
