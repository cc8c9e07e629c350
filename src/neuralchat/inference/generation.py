"""prompt ids -> answer text, stopping at the end tokens that training supervised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neuralchat.data.templates.template import Template
from neuralchat.data.tokens.encoding import encode_runs
from neuralchat.inference.decoding import decode
from neuralchat.inference.generation_settings import generation_settings
from neuralchat.inference.penalties import answer_penalties
from neuralchat.inference.sampling import Sampling
from neuralchat.models.adapters.build import base_model_of


@dataclass(frozen=True)
class Answer:
    """`finished`: the model ended by itself, it was not cut at max_new_tokens."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool


@dataclass(frozen=True)
class Frame:
    """What a template writes around the words of an answer, and a model trained with it says.

    `opening_ids`: the same with its special tokens, where it has some: then all that stands before it is reasoning.
    """

    opening: str = ""
    closing: str = ""
    opening_ids: tuple[int, ...] = ()

    def words(self, tokenizer: Any, ids: Sequence[int], *, finished: bool) -> str:
        """The text of an answer's tokens without the frame."""
        if (start := end_of_last(self.opening_ids, ids)) is not None:
            text = decoded(tokenizer, ids[start:])
        else:
            text = decoded(tokenizer, ids).removeprefix(self.opening)
        return text.removesuffix(self.closing) if finished else text

    def certain_words(self, tokenizer: Any, ids: Sequence[int]) -> str:
        """Of an answer that goes on: what may still become part of the frame is held back."""
        if self.opening_ids and end_of_last(self.opening_ids, ids) is None:
            return ""
        if not self.opening_ids and self.opening.startswith(decoded(tokenizer, ids)):
            return ""
        text = self.words(tokenizer, ids, finished=False)
        begun = next((n for n in range(len(self.closing), 0, -1) if text.endswith(self.closing[:n])), 0)
        return text[: len(text) - begun]


NO_FRAME = Frame()


def end_of_last(part: Sequence[int], ids: Sequence[int]) -> int | None:
    """
    >>> end_of_last([7, 8], [1, 7, 8, 2, 7, 8, 3])
    6
    """
    size = len(part)
    found = (end for end in range(len(ids), size - 1, -1) if list(ids[end - size : end]) == list(part))
    return next(found, None) if size else None


def frame_of(tokenizer: Any, template: Template) -> Frame:
    opening, closing = (encode_runs(tokenizer, [part])[0][0].tolist() for part in template.frame)
    has_special = any(piece.special for piece in template.frame[0])
    return Frame(decoded(tokenizer, opening), decoded(tokenizer, closing), tuple(opening) if has_special else ())


def end_token_ids(tokenizer: Any, template: Template) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(token) for token in template.end_tokens]


def padding_id(tokenizer: Any, end_ids: Sequence[int]) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_ids[0]


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


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of an answer's tokens, spaces as they are."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class TextStream:
    """A streamer for model.generate that hands out text as soon as its characters are certain."""

    def __init__(self, tokenizer: Any, end_ids: Sequence[int], on_text: Callable[[str], None], frame: Frame) -> None:
        self.tokenizer = tokenizer
        self.frame = frame
        self.end_ids = set(end_ids)
        self.on_text = on_text
        self.ids: list[int] = []
        self.finished = False
        self.shown = ""
        self.prompt_came = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_came:
            self.prompt_came = True
            return
        tokens = value.flatten().tolist()
        self.ids += [token for token in tokens if token not in self.end_ids]
        self.finished = self.finished or any(token in self.end_ids for token in tokens)
        text = self.frame.certain_words(self.tokenizer, self.ids)
        # A replacement character may be half of a longer one: wait for the rest.
        if not text.endswith("\ufffd"):
            self.on_text(text[len(self.shown) :])
            self.shown = text

    def end(self) -> None:
        text = self.frame.words(self.tokenizer, self.ids, finished=self.finished)
        self.on_text(text[len(self.shown) :])
