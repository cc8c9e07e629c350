"""Matrix products with weights that are not trained: the fastest exact path of the machine, no copy of a weight.

On CPU, oneDNN's products are 5 to 100 % faster than the BLAS behind torch.nn.Linear, most for wide outputs such
as the head (benchmarks/LOG.md). Weights stored in bf16 are widened to the activations' dtype in slices, used and
dropped, so a bf16 base trains with fp32 arithmetic on machines without bf16 units. What is stored otherwise
(quantized_linear.py) gives its matrix when it is asked, forward and again backward.

Shapes: M rows, I inputs, O outputs; weight [O, I].
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neuralchat.models.compat.torch import onednn_linear, onednn_linear_available

# A widened slice of a weight takes at most this many bytes.
SLICE_BYTES = 64 << 20


ONEDNN = onednn_linear_available()


class StoredWeight(Protocol):
    """A weight [O, I] that is no matrix until it is used."""

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Valid until another weight is asked for."""
        ...


def product(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows [..., I] times the transpose of matrix [O, I]: [..., O]. Equal dtypes; no autograd."""
    if ONEDNN and rows.device.type == "cpu" and rows.dtype == torch.float32:
        result = onednn_linear(rows, matrix, bias)
        # No view, so that a model may change it in place, as Gemma 3n does.
        return result.new_empty(0).set_(result)  # type: ignore[call-overload]
    return nn.functional.linear(rows, matrix, bias)


def matmul_by_transposed(rows: Tensor, weight: Tensor | StoredWeight) -> Tensor:
    """rows [M, I] @ weight.T, in the dtype of rows: [M, O]."""
    if not isinstance(weight, Tensor):
        weight = weight.matrix(rows.dtype)
    if rows.dtype == weight.dtype:
        return product(rows, weight)
    result = rows.new_empty(*rows.shape[:-1], weight.shape[0])
    for start, stop in slices(weight):
        result[..., start:stop] = product(rows, weight[start:stop].to(rows.dtype))
    return result


def matmul_by(rows: Tensor, weight: Tensor | StoredWeight) -> Tensor:
    """rows [M, O] @ weight, in the dtype of rows: [M, I]."""
    if not isinstance(weight, Tensor):
        weight = weight.matrix(rows.dtype)
    if rows.dtype == weight.dtype:
        return product(rows, weight.t())
    result: Tensor | None = None
    for start, stop in slices(weight):
        part = product(rows[..., start:stop], weight[start:stop].to(rows.dtype).t())
        result = part if result is None else result.add_(part)
    assert result is not None
    return result


def slices(weight: Tensor) -> list[tuple[int, int]]:
    rows = max(1, SLICE_BYTES // (4 * weight.shape[1]))
    return [(start, min(start + rows, weight.shape[0])) for start in range(0, weight.shape[0], rows)]


class FrozenProduct(torch.autograd.Function):
    """x @ weight.T + bias where neither weight nor bias is trained; nothing is saved but the weight itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | StoredWeight, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        y = matmul_by_transposed(x, weight)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return matmul_by(grad_y, ctx.weight), None, None


class FrozenLinear(nn.Linear):
    """A linear layer whose weight is not trained; it takes over from nn.Linear in place."""

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast torch chooses the dtype of the product itself.
        if torch.is_autocast_enabled(x.device.type):
            return nn.functional.linear(x, self.weight, self.bias)
        return FrozenProduct.apply(x, self.weight.detach(), None if self.bias is None else self.bias.detach())


def freeze_linears(model: nn.Module) -> int:
    """Turn every nn.Linear of `model` whose parameters need no gradient into a FrozenLinear; returns how many."""
    count = 0
    for module in model.modules():
        if type(module) is nn.Linear and not any(p.requires_grad for p in module.parameters()):
            module.__class__ = FrozenLinear
            count += 1
    return count


def thaw_linears(model: nn.Module) -> None:
    """Undo `freeze_linears` where that needs no widening, so that single tokens take torch's own products."""
    for module in model.modules():
        if type(module) is FrozenLinear and module.weight.dtype == torch.float32:
            module.__class__ = nn.Linear  # type: ignore[assignment]
