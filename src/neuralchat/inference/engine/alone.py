"""One answer at a time by the model's own generate: for every family and every method.

transformers computes, with whatever cache the family has; which token comes next is decided here, in the place where
generate lets its scores be changed. So an answer is chosen as in a batch, and everything else can go on between two of
its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from neuralchat.inference.engine.checks import Limits
from neuralchat.inference.engine.interface import Reason
from neuralchat.inference.engine.jobs import Job
from neuralchat.inference.engine.next_token import Chooser
from neuralchat.inference.engine.shelf import Shelf
from neuralchat.inference.generation.decoding import decode
from neuralchat.inference.generation.settings import decoder_start, generation_settings
from neuralchat.inference.sampling import Sampling
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.families.architecture import is_encoder_decoder
from neuralchat.models.quiet import quiet_libraries


class LeaveGenerateError(Exception):
    """Raised inside generate to leave it."""


class ChosenTokens(LogitsProcessor):
    """Chooses each token of one answer and tells it; generate is left the choice between this one and none."""

    # What transformers' own continuous batching asks of a processor.
    supports_continuous_batching = False

    def __init__(self, job: Job, chooser: Chooser, before_next: Callable[[], None]) -> None:
        self.job, self.chooser, self.before_next = job, chooser, before_next
        self.told = 0

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores fp32 [1, V]: the model's logits."""
        if self.told:
            self.before_next()
        if self.job.cancelled:
            raise LeaveGenerateError
        token = self.chooser.choose(scores[0].cpu())
        self.told += 1
        self.job.tell(token)
        only = torch.full_like(scores, float("-inf"))
        only[0, token.id] = 0
        return only


@torch.inference_mode()
def answer_alone(shelf: Shelf, job: Job, between: Callable[[], None]) -> tuple[int, Reason]:
    """Compute a whole answer and tell its tokens; returns how many, and why it has ended.

    `between` is called between two tokens.
    """
    model = shelf.use(job.adapter)
    base = base_model_of(model)
    prompt = list(job.request.prompt_ids)
    # What transformers' repetition penalty counts.
    before = [decoder_start(base)] if is_encoder_decoder(base.config) else prompt

    def others() -> None:
        between()
        shelf.use(job.adapter)

    tokens = ChosenTokens(job, Chooser(job.request, [id_ for id_ in before if id_ is not None]), others)
    ids = torch.tensor([prompt], device=base.device)
    greedy = Sampling(max_new_tokens=job.room)
    # It stands for nothing: one prompt has no padding.
    pad_id = prompt[0]
    try:
        with (
            quiet_libraries(),
            generation_settings(base, greedy, end_ids=sorted(job.request.end_ids), pad_id=pad_id) as settings,
        ):
            decode(model, ids, torch.ones_like(ids), settings, processors=lambda: [tokens])
    except LeaveGenerateError:
        return tokens.told, "cancelled"
    return tokens.told, "stop" if tokens.chooser.answer[-1] in job.request.end_ids else "length"


def limits_alone(base: Any, model: Any, positions: int | None) -> Limits:
    """What one model of the shelf, around `base`, has room for. `positions`: architecture.position_limit of `base`."""
    return Limits(
        vocabulary=base.get_input_embeddings().weight.shape[0],
        scores=score_count(base),
        positions=None if positions is None else positions - virtual_tokens_of(model).count,
        apart=is_encoder_decoder(base.config),
    )


def score_count(base: Any) -> int:
    """How many tokens have a score, which may be more or fewer than have an embedding."""
    head = base.get_output_embeddings()
    return int((base.get_input_embeddings() if head is None else head).weight.shape[0])
