"""What is wanted -> the answers of the engine, as pieces of text in the order in which they come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from neuralchat.data.templates.calls import CalledTool, CallFormat
from neuralchat.errors import NeuralChatError
from neuralchat.inference.answer_text import AnswerText
from neuralchat.inference.engine.interface import Ended, Engine, EngineDownError, Event, Request, Ticket, Token
from neuralchat.inference.sampling import HIGHEST_SEED, Sampling
from neuralchat.inference.server.refusals import refused_by
from neuralchat.inference.server.token_bytes import AttributedTokens, TokenBytes
from neuralchat.inference.voice import Voice


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request that has been understood. `prompts`: ids, several for /v1/completions; each gets `n` answers.

    `is_chat`: the answers are those of a conversation, in the template's frame; `begun`: they go on with a begun one.
    `joined`: the places of messages that were made one with those before. `echo`: what /v1/responses repeats of a
    request.
    """

    model: str
    voice: Voice
    prompts: tuple[tuple[int, ...], ...]
    sampling: Sampling
    n: int = 1
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    is_chat: bool = True
    begun: bool = False
    joined: tuple[str, ...] = ()
    echo: Mapping[str, Any] = field(default_factory=dict)
    # Tools were shown to the model, and this is how it writes calls of them.
    call_format: CallFormat | None = None
    stream: bool = False
    include_usage: bool = False

    def requests(self) -> Iterator[Request]:
        """One for each answer, in the order of their indices; the seeds of answers to one prompt are in a row."""
        for prompt in self.prompts:
            for number in range(self.n):
                seed = self.sampling.seed
                own = seed if seed is None else min(seed + number, HIGHEST_SEED)
                yield Request(
                    prompt_ids=prompt,
                    model=self.model,
                    sampling=replace(self.sampling, seed=own),
                    end_ids=frozenset(self.voice.end_ids),
                    logit_bias=self.logit_bias,
                    top_logprobs=self.top_logprobs,
                    # A stop string is to be seen at once, or words are computed that nobody gets.
                    may_come_together=not self.stream and not self.stop,
                )

    def text(self) -> AnswerText:
        if self.is_chat:
            return self.voice.answer_text(self.stop, begun=self.begun)
        return AnswerText(self.voice.tokenizer, stop=self.stop)


@dataclass(frozen=True)
class SaidPiece:
    """A piece of answer `index`. `tokens`: with their bytes, where log-probabilities are wanted. `finish`: "stop" or
    "length" with the last piece, "tool_calls" where `calls` are made.
    """

    index: int
    text: str
    tokens: tuple[tuple[Token, bytes], ...] = ()
    finish: str | None = None
    calls: tuple[CalledTool, ...] = ()


class HeldCalls:
    """Holds back what may become calls of tools, until the answer has ended."""

    def __init__(self, call_format: CallFormat) -> None:
        self.format = call_format
        self.text = ""
        self.given = 0

    def add(self, piece: str) -> str:
        self.text += piece
        start, self.given = self.given, max(self.given, self.format.beginning(self.text))
        return self.text[start : self.given]

    def finish(self) -> tuple[str, tuple[CalledTool, ...]]:
        """(text, calls) of what was held back: one of them is empty."""
        held = self.text[self.given :]
        calls = self.format.calls_in(held)
        return ("", tuple(calls)) if calls else (held, ())


class Speaker:
    """One answer: events of the engine -> what is said."""

    def __init__(self, index: int, wanted: Wanted, token_bytes: TokenBytes) -> None:
        self.index = index
        self.text = wanted.text()
        self.end_ids = frozenset(wanted.voice.end_ids)
        self.attributed = AttributedTokens(self.text, token_bytes) if wanted.top_logprobs is not None else None
        self.held = HeldCalls(wanted.call_format) if wanted.call_format is not None else None
        self.token_count = 0
        self.is_over = False

    def heard(self, event: Event) -> SaidPiece | None:
        """None where nothing can be said yet. Raises RefusedRequestError where the answer has failed."""
        if self.is_over:
            return None
        if isinstance(event, Ended):
            return self.ended(event)
        self.token_count += 1
        if event.id in self.end_ids:
            return None
        piece = self.text.add(event.id)
        if self.attributed is not None:
            self.attributed.add(event)
        if self.text.stopped_at is not None:
            return self.last(piece, "stop")
        tokens = tuple(self.attributed.taken()) if self.attributed is not None else ()
        if self.held is not None:
            piece = self.held.add(piece)
        return SaidPiece(self.index, piece, tokens) if piece or tokens else None

    def ended(self, event: Ended) -> SaidPiece:
        if not event.is_whole:
            raise refused_by(EngineDownError(event.error or "the engine has given the answer up; ask again"))
        rest = self.text.finish(finished=event.reason == "stop")
        return self.last(rest, "stop" if self.text.stopped_at is not None else event.reason)

    def last(self, piece: str, finish: str) -> SaidPiece:
        self.is_over = True
        tokens = tuple(self.attributed.taken(is_last=True)) if self.attributed is not None else ()
        calls: tuple[CalledTool, ...] = ()
        if self.held is not None:
            piece = self.held.add(piece)
            rest, calls = self.held.finish()
            piece += rest
        return SaidPiece(self.index, piece, tokens, "tool_calls" if calls and finish == "stop" else finish, calls)


class OpenAnswers:
    """All answers to one request. They go on until they have ended or `cancel` is called, whoever listens."""

    def __init__(self, engine: Engine, wanted: Wanted, token_bytes: TokenBytes) -> None:
        self.engine = engine
        self.wanted = wanted
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        count = len(wanted.prompts) * wanted.n
        self.speakers = [Speaker(index, wanted, token_bytes) for index in range(count)]
        self.tickets: dict[int, Ticket] = {}
        self.lock = threading.Lock()
        # Those whose stop string came, perhaps before their ticket did.
        self.stopped: set[int] = set()
        self.cancelled = False
        self.cached_tokens = 0

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.wanted.prompts))

    @property
    def completion_tokens(self) -> int:
        return sum(speaker.token_count for speaker in self.speakers)

    async def submit(self, *, retry_after: int = 1) -> None:
        """Raises RefusedRequestError where the engine takes one of them not; then it answers none."""
        try:
            # The engine may have to wait for a lock, or for another process.
            await asyncio.to_thread(self.submit_all)
        except NeuralChatError as error:
            self.cancel()
            raise refused_by(error, retry_after=retry_after) from error
        except BaseException:
            self.cancel()
            raise

    def submit_all(self) -> None:
        for index, request in enumerate(self.wanted.requests()):
            if self.cancelled:
                return
            ticket = self.engine.submit(request, self.listener(index))
            with self.lock:
                self.tickets[index] = ticket
                is_over = index in self.stopped
            # The client may have left meanwhile.
            if is_over or self.cancelled:
                ticket.cancel()

    def listener(self, index: int) -> Callable[[Event], None]:
        def hear(event: Event) -> None:
            # The loop may have ended with the server.
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.events.put_nowait, (index, event))

        return hear

    async def said(self) -> AsyncIterator[SaidPiece]:
        """What is said, of all answers as it comes; the last piece of each has its `finish`."""
        left = len(self.speakers)
        while left:
            index, event = await self.events.get()
            if isinstance(event, Ended):
                self.cached_tokens += event.cached_tokens
            said = self.speakers[index].heard(event)
            if said is None:
                continue
            if said.finish is not None:
                left -= 1
                if self.speakers[index].text.stopped_at is not None:
                    self.stop(index)
            yield said

    def stop(self, index: int) -> None:
        with self.lock:
            self.stopped.add(index)
            ticket = self.tickets.get(index)
        if ticket is not None:
            ticket.cancel()

    def cancel(self) -> None:
        """May be called twice, and when all have ended."""
        self.cancelled = True
        with self.lock:
            tickets = list(self.tickets.values())
        for ticket in tickets:
            ticket.cancel()
