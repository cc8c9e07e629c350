"""hidden states of two models -> how far one's distributions of the next token are from the other's, in chunks.

    KL(teacher || student) = sum over the vocabulary of p_teacher * (log p_teacher - log p_student)

(Kullback and Leibler 1951; as a loss that keeps what a model knows: https://arxiv.org/abs/1606.09282.) As with the
cross entropy, the gradient is formed in the forward pass, so logits of one chunk are all that ever exists of [N, V].

Shapes: N positions, C positions of a chunk, V vocabulary, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neuralchat.models.losses.supervised import ChunkedSum, chunk_rows, plain_head


def divergence_sum(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    teacher_hidden: Tensor,
    teacher_head: Callable[[Tensor], Tensor],
    *,
    grad: bool = True,
) -> Tensor:
    """Sum over N positions of KL(teacher || student), a scalar in fp32; no gradient reaches the teacher.

    hidden, teacher_hidden: [N, E]. The heads map [C, E] to logits [C, V].
    """
    if plain_head(head):
        assert isinstance(head, nn.Linear)

        def score(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            return divergence_and_grad_logits(logits, teacher_head(teacher_hidden[part]))

        return ChunkedSum.apply(hidden, head.weight, head.bias, score, grad)
    rows = chunk_rows(getattr(head, "out_features", 0) or 1 << 17)
    total = hidden.new_zeros((), dtype=torch.float32)
    for states, known in zip(hidden.split(rows), teacher_hidden.split(rows), strict=True):
        with torch.no_grad():
            wanted = teacher_head(known)
        total = total + checkpoint(head_divergence, head, states, wanted, use_reentrant=False)
    return total


def head_divergence(head: Callable[[Tensor], Tensor], states: Tensor, wanted: Tensor) -> Tensor:
    """`wanted`: the teacher's logits [C, V]."""
    log_student = torch.log_softmax(head(states).float(), dim=1)
    log_teacher = torch.log_softmax(wanted.float(), dim=1)
    return nn.functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)


def divergence_and_grad_logits(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of KL in fp32, its gradient: softmax of the student's `logits` [C, V] - softmax of the teacher's)."""
    log_student = torch.log_softmax(logits.float(), dim=1)
    log_teacher = torch.log_softmax(wanted.float(), dim=1)
    teacher = log_teacher.exp()
    total = (teacher * log_teacher.sub_(log_student)).sum()
    return total, log_student.exp_().sub_(teacher).to(logits.dtype)
