"""A chatbot with a small model, whose answers are scripted: losses, logits and prompts are the model's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from neuralchat.data.templates.making import make_template
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.generation.answering import Answer
from neuralchat.inference.sampling import Sampling
from support.small_models import make_tokenizer

QUESTIONS = [
    {"instruction": "Rank flag?", "output": "--lora_rank", "facts": ["--lora_rank", "8"]},
    {"instruction": "Which é?", "output": "é", "facts": ["é"]},
]


class SilentBot(Chatbot):
    """Gives the answers it was made with, and remembers what it was asked."""

    def __init__(self, model: Any, answers: Sequence[str], before: Sequence[str] | None = None) -> None:
        tokenizer = make_tokenizer()
        super().__init__(model, tokenizer, make_template("alpaca", tokenizer), name="run")
        self.replies = list(answers)
        self.before = before
        self.asked: list[Any] = []
        self.loaded_with: dict[str, Any] = {}

    @property
    def has_base(self) -> bool:
        return self.before is not None

    @contextmanager
    def untuned(self) -> Iterator[SilentBot]:
        assert self.before is not None
        with super().untuned() as base:
            yield SilentBot(base.model, self.before)

    def answers(
        self, conversations: Sequence[Any], sampling: Sampling, told: Callable[[int], None] = lambda _count: None
    ) -> list[Answer]:
        if conversations:
            told(len(conversations))
        self.asked += [sampling, *conversations]
        texts = [self.replies.pop(0) for _ in conversations]
        self.replies += texts
        return [Answer(text, tuple(range(len(text.split()))), finished=bool(text)) for text in texts]
