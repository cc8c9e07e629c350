"""hidden states -> sum of cross entropies over the supervised tokens: the head runs on targets only, in chunks.

The gradient is formed in the forward pass, so logits of one chunk are all that ever exists of [N, V].

Shapes: T tokens of the row, N targets, C targets of a chunk, V vocabulary, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neuralchat.models.compat.torch import is_hooked
from neuralchat.models.kernels.elementwise import Elementwise, kernels_for
from neuralchat.models.layers.frozen_linear import FrozenLinear, matmul_by, matmul_by_transposed

# Logits of one chunk take at most this many bytes in fp32.
CHUNK_BYTES = 32 << 20


def supervised_loss(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    target_ids: Tensor,
    *,
    label_smoothing: float = 0.0,
    grad: bool = True,
) -> Tensor:
    """Sum of cross entropies, a scalar in fp32.

    hidden: [N, E], the states that the targets are predicted from. target_ids: int64 [N]. `head` maps [C, E] to
    logits [C, V]; a plain linear head takes the fast path, any other is recomputed in backward.
    """
    if plain_head(head):
        assert isinstance(head, nn.Linear)
        # The kernel knows no label smoothing.
        kernels = None if label_smoothing else kernels_for(hidden, head)

        def score(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            return loss_and_grad_logits(logits, target_ids[part], label_smoothing, kernels)

        return ChunkedSum.apply(hidden, head.weight, head.bias, score, grad)
    rows = chunk_rows(getattr(head, "out_features", 0) or 1 << 17)
    total = hidden.new_zeros((), dtype=torch.float32)
    for states, ids in zip(hidden.split(rows), target_ids.split(rows), strict=True):
        total = total + checkpoint(head_loss, head, states, ids, label_smoothing, use_reentrant=False)
    return total


def plain_head(head: Callable[[Tensor], Tensor]) -> bool:
    """Whether `head` is just a matrix: no adapter inside, no hook that would be skipped."""
    return isinstance(head, nn.Linear) and type(head) in (nn.Linear, FrozenLinear) and not is_hooked(head)


def head_loss(head: Callable[[Tensor], Tensor], states: Tensor, ids: Tensor, label_smoothing: float) -> Tensor:
    logits = head(states).float()
    return nn.functional.cross_entropy(logits, ids, reduction="sum", label_smoothing=label_smoothing)


def chunk_rows(vocabulary: int) -> int:
    return max(1, CHUNK_BYTES // (4 * vocabulary))


def loss_and_grad_logits(
    logits: Tensor, ids: Tensor, smoothing: float, kernels: Elementwise | None
) -> tuple[Tensor, Tensor]:
    """(sum of the cross entropies in fp32, their gradient in the dtype of `logits` [C, V], which is overwritten).

    Formula of the gradient: softmax(logits) - target distribution. With label smoothing e the target distribution is
    (1 - e) one-hot + e / V, as in torch.nn.functional.cross_entropy.
    """
    if kernels is not None:
        return kernels.cross_entropy(logits, ids).sum(), logits
    log_probabilities = torch.log_softmax(logits.float(), dim=1)
    total = -(1 - smoothing) * log_probabilities.gather(1, ids[:, None]).sum()
    if smoothing:
        total -= smoothing * log_probabilities.mean(dim=1).sum()
    grad_logits = log_probabilities.exp_()
    if smoothing:
        grad_logits -= smoothing / grad_logits.shape[1]
    grad_logits.scatter_add_(1, ids[:, None], torch.full_like(ids[:, None], smoothing - 1, dtype=grad_logits.dtype))
    return total, grad_logits.to(logits.dtype)


class ChunkedSum(torch.autograd.Function):
    """A sum over the logits of a linear head, a chunk of rows at a time; `score` forms it with its gradient.

    `score(logits [C, V], part)` is given the logits of the rows `part` and returns (their sum in fp32, its gradient by
    the logits in their dtype); it may overwrite them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        score: Callable[[Tensor, slice], tuple[Tensor, Tensor]],
        grad: bool,
    ) -> Tensor:
        need_hidden, need_weight, need_bias = (grad and need for need in ctx.needs_input_grad[:3])
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias and bias is not None else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = chunk_rows(weight.shape[0])
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = matmul_by_transposed(hidden[part], weight)
            if bias is not None:
                logits += bias
            found, grad_logits = score(logits, part)
            total += found
            if grad_hidden is not None:
                grad_hidden[part] = matmul_by(grad_logits, weight)
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T.float(), hidden[part].float())
            if grad_bias is not None:
                grad_bias += grad_logits.float().sum(dim=0)
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if g is None else g.mul_(grad_total.to(g.dtype)) for g in ctx.grads]
        return (*scaled, None, None)
