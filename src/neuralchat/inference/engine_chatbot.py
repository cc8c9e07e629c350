"""A chatbot whose answers an engine computes: the same prompts and words, without a model in this process."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.engine.interface import Ended, Engine, Event, tokens_of, whole_answer
from neuralchat.inference.generation.answering import Answer, TextStream
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.voice import Voice
from neuralchat.inference.window import Prompt


class EngineChatbot(Chatbot):
    """`engine`: of one model, which is its last. It is the caller's to close."""

    def __init__(self, engine: Engine, voice: Voice, *, name: str = "") -> None:
        self.model: Any = None
        self.engine = engine
        self.voice = voice
        self.tokenizer, self.template, self.name = voice.tokenizer, voice.template, name
        self.system = None
        self.history = []
        self.last = None
        self.open_stream: weakref.ref[Generator[str, None, None]] | None = None

    @property
    def has_base(self) -> bool:
        return False

    def generated(
        self, prompts: Sequence[Prompt], sampling: Sampling, stream: TextStream | None = None
    ) -> list[Answer]:
        return [self.one(prompt, sampling, stream) for prompt in prompts]

    def one(self, prompt: Prompt, sampling: Sampling, stream: TextStream | None) -> Answer:
        request = self.engine_request(self.engine, prompt, sampling)
        events: list[Event] = []
        for event in tokens_of(self.engine, request):
            events.append(event)
            if stream is not None and not isinstance(event, Ended) and event.id not in request.end_ids:
                stream.add(event.id)
        ids, finished = whole_answer(request, events)
        if stream is not None:
            stream.finished = finished
            stream.end()
        return Answer(self.voice.words(ids, finished=finished), tuple(ids), finished)

    @contextmanager
    def many(self, count: int) -> Iterator[Engine]:  # noqa: ARG002
        yield self.engine
