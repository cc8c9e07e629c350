"""Scores of the next token -> the token: bias, penalties, temperature, top-k, top-p, min-p, a draw of the answer's own.

In the order of transformers' generate. An answer draws from a generator of its own, so what is computed beside it
changes nothing.

Shapes: B answers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neuralchat.inference.engine.interface import Request, Token
from neuralchat.inference.generation.penalties import with_answer_penalties

# Sorting a whole vocabulary is slow: so many of the likeliest are looked at first, and more where they do not suffice.
FIRST_CANDIDATES, MORE_CANDIDATES = 256, 16


class Chooser:
    """Chooses the tokens of one answer, one after another.

    `before`: ids that a repetition penalty counts besides the answer's: the prompt of a causal model.
    """

    def __init__(self, request: Request, before: Sequence[int]) -> None:
        self.sampling = request.sampling
        self.top_logprobs = request.top_logprobs
        self.answer: list[int] = []
        self.repeated = torch.tensor(sorted(set(before)), dtype=torch.long)
        self.bias: tuple[Tensor, Tensor] | None = None
        if request.logit_bias:
            ids, numbers = zip(*request.logit_bias.items(), strict=True)
            self.bias = torch.tensor(ids), torch.tensor(numbers, dtype=torch.float32)
        self.generator = torch.Generator()
        if self.sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.sampling.seed)

    @property
    def is_plain(self) -> bool:
        """Whether the answer's next token is the likeliest, and nothing else is asked."""
        return self.sampling.temperature == 0 and not self.changes_scores and self.top_logprobs is None

    @property
    def changes_scores(self) -> bool:
        s = self.sampling
        penalties = s.repetition_penalty != 1.0 or s.presence_penalty != 0.0 or s.frequency_penalty != 0.0
        return penalties or self.bias is not None

    def choose(self, logits: Tensor) -> Token:
        """The next token by the model's logits, fp32 [V], which stay as they are."""
        scores = self.changed(logits.clone()) if self.changes_scores else logits
        greedy = self.sampling.temperature == 0
        return self.take(int(scores.argmax()) if greedy else self.drawn(scores), logits)

    def take(self, chosen: int, logits: Tensor) -> Token:
        """The token with the probabilities that are wanted; the answer goes on from it."""
        self.answer.append(chosen)
        if self.top_logprobs is None:
            return Token(chosen)
        total = logits.logsumexp(0)
        values, ids = logits.topk(min(self.top_logprobs, len(logits)))
        top = tuple(zip(ids.tolist(), (values - total).tolist(), strict=True))
        return Token(chosen, float(logits[chosen] - total), top)

    def changed(self, scores: Tensor) -> Tensor:
        """Scores [V] with bias and penalties, in place."""
        s = self.sampling
        answer = torch.tensor(self.answer, dtype=torch.long)
        if self.bias is not None:
            scores[self.bias[0]] += self.bias[1]
        if s.repetition_penalty != 1.0:
            seen = torch.cat([self.repeated, answer]).unique()
            found = scores[seen]
            scores[seen] = torch.where(found < 0, found * s.repetition_penalty, found / s.repetition_penalty)
        if s.presence_penalty or s.frequency_penalty:
            with_answer_penalties(scores, answer, s)
        return scores

    def drawn(self, scores: Tensor) -> int:
        s = self.sampling
        # From the highest score, so that no temperature is too low.
        weights = (scores - scores.max()).div_(s.temperature).exp_()
        ids = None
        if s.top_k or s.top_p < 1 or s.min_p > 0:
            weights, ids = candidates(weights, s.top_k, s.top_p, s.min_p)
        sums = weights.double().cumsum(0)
        drawn = torch.rand(1, generator=self.generator, dtype=torch.float64) * sums[-1]
        place = min(int(torch.searchsorted(sums, drawn, right=True)), len(sums) - 1)
        return place if ids is None else int(ids[place])


def candidates(weights: Tensor, top_k: int, top_p: float, min_p: float) -> tuple[Tensor, Tensor]:
    """(weights, ids) of the tokens that may be drawn, the likeliest first. weights: unnormalized probabilities [V]."""
    size = len(weights)
    count = min(top_k or FIRST_CANDIDATES, size)
    while True:
        top, ids = weights.topk(count)
        total = top.sum() if top_k else weights.sum()
        # A token stays while those before it have less than top_p together; the first always does.
        stays = (top.cumsum(0) - top < top_p * total) & (top >= min_p * top[0])
        if top_k or count == size or not stays[-1]:
            break
        count = min(count * MORE_CANDIDATES, size)
    stays[0] = True
    kept = int(stays.sum())
    return top[:kept], ids[:kept]


def choose_tokens(logits: Tensor, choosers: Sequence[Chooser]) -> list[Token]:
    """The next token of each answer by the model's logits, fp32 [B, V] on the CPU."""
    plain = [chooser.is_plain for chooser in choosers]
    likeliest = logits.argmax(dim=1).tolist() if any(plain) else ()
    return [
        chooser.take(likeliest[i], logits[i]) if plain[i] else chooser.choose(logits[i])
        for i, chooser in enumerate(choosers)
    ]
