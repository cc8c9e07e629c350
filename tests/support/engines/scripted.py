"""An engine that computes nothing: what it answers follows from the last question, so that tests of the server can ask
for long, slow, odd and failing answers.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from neuralchat.errors import ArgumentsError
from neuralchat.inference.engine.interface import (
    Ended,
    EngineBusyError,
    EngineDownError,
    EngineStatus,
    Event,
    Request,
    Token,
    UnknownModelError,
)

UNICODE = "Grüße, 世界! 🙂🙃 né"
QUESTION = re.compile(r".*<\|start\|>user\n(.*?)<\|end\|>", re.DOTALL)
# Seconds between two tokens of a slow answer.
PAUSE_S = 0.01


@dataclass(eq=False)
class ScriptedTicket:
    request: Request
    left: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.left.set()


class ScriptedEngine:
    """`say` makes the ids of an answer, with a float for seconds to wait and an Ended to end otherwise than by itself.

    Questions: "slow" is answered for a long time, "long" up to max_new_tokens, "unicode" with UNICODE, "fail" fails
    after a word, "special" holds special tokens, "say: X" is answered with X; any other is repeated.
    """

    def __init__(
        self, tokenizer: Any, names: tuple[str, ...] = ("base", "support"), *, memory_tokens: int = 0, room: int = 64
    ) -> None:
        self.tokenizer = tokenizer
        self.names = list(names)
        self.memory_tokens = memory_tokens
        self.room = room
        self.tickets: list[ScriptedTicket] = []
        self.running: set[ScriptedTicket] = set()
        self.lock = threading.Lock()
        self.down = ""
        self.drained: bool | None = None
        self.say: Callable[[Request], Iterator[int | float | Ended]] = self.said

    def submit(self, request: Request, on_event: Callable[[Event], None]) -> ScriptedTicket:
        with self.lock:
            if self.down:
                raise EngineDownError(self.down)
            if request.model not in self.names:
                raise UnknownModelError(f"there is no model '{request.model}' here")
            if len(self.running) >= self.room:
                raise EngineBusyError(f"{len(self.running)} answers wait, as many as may")
            if not request.prompt_ids:
                raise ArgumentsError("the prompt is empty")
            ticket = ScriptedTicket(request)
            self.tickets.append(ticket)
            self.running.add(ticket)
        threading.Thread(target=self.work, args=(ticket, on_event), daemon=True).start()
        return ticket

    def work(self, ticket: ScriptedTicket, on_event: Callable[[Event], None]) -> None:
        ended = self.ended(ticket, on_event)
        with self.lock:
            self.running.discard(ticket)
        on_event(ended)
        ticket.ended.set()

    def ended(self, ticket: ScriptedTicket, on_event: Callable[[Event], None]) -> Ended:
        request, count = ticket.request, 0
        for word in self.say(request):
            if isinstance(word, Ended):
                return word
            if isinstance(word, float):
                ticket.left.wait(word)
            if ticket.left.is_set():
                return Ended("cancelled")
            if isinstance(word, float):
                continue
            on_event(self.token(word, request))
            count += 1
            if word in request.end_ids:
                return Ended("stop", cached_tokens=len(request.prompt_ids) // 2)
            if count >= request.sampling.max_new_tokens:
                return Ended("length")
        return Ended("length")

    def token(self, word: int, request: Request) -> Token:
        """Log-probabilities that follow from the ids, the token itself being the likeliest."""
        if request.top_logprobs is None:
            return Token(word)
        own, size = -0.01 * (word % 7) - 0.01, len(self.tokenizer)
        top = tuple(((word + step) % size, own - step) for step in range(request.top_logprobs))
        return Token(word, own, top)

    def said(self, request: Request) -> Iterator[int | float | Ended]:
        question = self.question(request)
        end = min(request.end_ids)
        if question == "fail":
            yield from self.ids("A word")
            yield Ended("failed", "the engine has crashed")
        if question in ("slow", "long"):
            while True:
                if question == "slow":
                    yield PAUSE_S
                yield from self.ids(" word")
        if request.sampling.temperature > 0:
            chance = random.Random(request.sampling.seed)
            yield from (chance.randrange(5, 200) for _ in range(8))
        elif question == "special":
            yield from [*self.ids("a"), self.tokenizer.convert_tokens_to_ids("<|start|>"), *self.ids("b")]
        else:
            words = UNICODE if question == "unicode" else question.removeprefix("say: ")
            yield from self.ids(words)
        yield end

    def question(self, request: Request) -> str:
        text = self.tokenizer.decode(list(request.prompt_ids), skip_special_tokens=False)
        found = QUESTION.match(text)
        return found[1] if found else text

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def models(self) -> tuple[str, ...]:
        return tuple(self.names)

    def add_adapter(self, name: str, directory: str) -> None:
        if name in self.names:
            raise ArgumentsError(f"there is a model '{name}' already")
        self.names.append(name)

    def remove_adapter(self, name: str) -> None:
        if name == self.names[0]:
            raise ArgumentsError(f"'{name}' is the base model, which cannot be removed")
        self.names.remove(name)

    def status(self) -> EngineStatus:
        if self.down:
            raise EngineDownError(self.down)
        return EngineStatus(len(self.running), 0, self.memory_tokens, 0, 7, 3, 11)

    def close(self, *, drain: bool = True) -> None:
        self.drained = drain
        self.down = "the engine is closed"
        for ticket in list(self.running):
            if not drain:
                ticket.cancel()
            ticket.ended.wait(5)
