"""prompt ids -> answer text, stopping at the end tokens that training supervised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuralchat.data.templates import Template
from neuralchat.inference.decoding import decode
from neuralchat.inference.generation_settings import generation_settings
from neuralchat.inference.sampling import Sampling
from neuralchat.models.adapters.build import base_model_of


@dataclass(frozen=True)
class Answer:
    """`finished`: the model ended by itself, it was not cut at max_new_tokens."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool


def end_token_ids(tokenizer: Any, template: Template) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(token) for token in template.end_tokens]


def padding_id(tokenizer: Any, end_ids: Sequence[int]) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_ids[0]


@torch.inference_mode()
def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], end_ids: Sequence[int], sampling: Sampling,
    streamer: Any = None,
) -> list[Answer]:  # fmt: skip
    """One answer for each prompt; several prompts are padded on the left and answered together."""
    width = max(map(len, prompts))
    pad = padding_id(tokenizer, end_ids)
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with generation_settings(base_model_of(model), sampling, end_ids=end_ids, pad_id=pad) as settings:
        output = decode(model, ids, mask, settings, streamer=streamer)
    return [cut_answer(tokenizer, row.tolist(), end_ids) for row in output]


def cut_answer(tokenizer: Any, ids: Sequence[int], end_ids: Sequence[int]) -> Answer:
    stop = next((i for i, token in enumerate(ids) if token in end_ids), None)
    kept = ids[:stop]
    return Answer(decoded(tokenizer, kept), tuple(kept), stop is not None)


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of an answer's tokens, spaces as they are."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class TextStream:
    """A streamer for model.generate that hands out text as soon as its characters are certain."""

    def __init__(self, tokenizer: Any, end_ids: Sequence[int], on_text: Callable[[str], None]) -> None:
        self.tokenizer = tokenizer
        self.end_ids = set(end_ids)
        self.on_text = on_text
        self.ids: list[int] = []
        self.shown = ""
        self.prompt_came = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_came:
            self.prompt_came = True
            return
        self.ids += [token for token in value.flatten().tolist() if token not in self.end_ids]
        text = decoded(self.tokenizer, self.ids)
        # A replacement character may be half of a longer one: wait for the rest.
        if not text.endswith("\ufffd"):
            self.on_text(text[len(self.shown) :])
            self.shown = text

    def end(self) -> None:
        text = decoded(self.tokenizer, self.ids)
        self.on_text(text[len(self.shown) :])
