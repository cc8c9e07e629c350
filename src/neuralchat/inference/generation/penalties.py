"""Presence and frequency penalties, which transformers' generate does not have, as one of its logits processors.

Shapes: B answers, L tokens of prompt and answer so far, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from neuralchat.inference.sampling import Sampling


def with_answer_penalties(scores: Tensor, answer: Tensor, sampling: Sampling) -> Tensor:
    """Scores [V] of the token after `answer` int64 [N], in place."""
    ids, counts = torch.unique(answer, return_counts=True)
    scores[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts.to(scores.dtype)
    return scores


class AnswerPenalties(LogitsProcessor):
    """For one call of generate: what its first call is given is the prompt, all that comes later the answer."""

    # What transformers' own continuous batching asks of a processor.
    supports_continuous_batching = False

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.prompt: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores [B, V] of the token after input_ids [B, L]."""
        if self.prompt is None:
            self.prompt = input_ids.shape[1]
        answers = input_ids[:, self.prompt :]
        rows = zip(scores.clone(), answers, strict=True)
        return torch.stack([with_answer_penalties(row, answer, self.sampling) for row, answer in rows])


def answer_penalties(sampling: Sampling) -> list[LogitsProcessor]:
    """The processors that one call of generate needs besides its own."""
    return [AnswerPenalties(sampling)] if sampling.presence_penalty or sampling.frequency_penalty else []
