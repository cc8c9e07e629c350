"""prompt ids -> answer text, stopping at the end tokens that training supervised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuralchat.inference.answer_text import NO_FRAME, AnswerText, Frame
from neuralchat.inference.generation.decoding import decode
from neuralchat.inference.generation.penalties import answer_penalties
from neuralchat.inference.generation.settings import generation_settings, padding_id
from neuralchat.inference.sampling import Sampling
from neuralchat.models.adapters.build import base_model_of


@dataclass(frozen=True)
class Answer:
    """`finished`: the model ended by itself, it was not cut at max_new_tokens."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    end_ids: Sequence[int],
    sampling: Sampling,
    streamer: Any = None,
    *,
    frame: Frame = NO_FRAME,
) -> list[Answer]:
    """One answer for each prompt; several prompts are padded on the left and answered together."""
    width = max(map(len, prompts))
    pad = padding_id(tokenizer, end_ids)
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with generation_settings(base_model_of(model), sampling, end_ids=end_ids, pad_id=pad) as settings:
        output = decode(model, ids, mask, settings, streamer=streamer, processors=lambda: answer_penalties(sampling))
    return [cut_answer(tokenizer, row.tolist(), end_ids, frame) for row in output]


def cut_answer(tokenizer: Any, ids: Sequence[int], end_ids: Sequence[int], frame: Frame) -> Answer:
    stop = next((i for i, token in enumerate(ids) if token in end_ids), None)
    kept = ids[:stop]
    finished = stop is not None
    return Answer(frame.words(tokenizer, kept, finished=finished), tuple(kept), finished)


class TextStream:
    """A streamer for model.generate that hands out text as soon as its characters are certain."""

    def __init__(self, text: AnswerText, end_ids: Sequence[int], on_text: Callable[[str], None]) -> None:
        self.text = text
        self.end_ids = set(end_ids)
        self.on_text = on_text
        self.finished = False
        self.prompt_came = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_came:
            self.prompt_came = True
            return
        tokens = value.flatten().tolist()
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """The next token of the answer."""
        if token in self.end_ids:
            self.finished = True
        else:
            self.on_text(self.text.add(token))

    def end(self) -> None:
        self.on_text(self.text.finish(finished=self.finished))
