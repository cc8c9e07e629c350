"""What is wanted -> a response, whole or as a stream of events, for as long as the client waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from neuralchat.inference.engine.interface import Engine
from neuralchat.inference.server.answers import OpenAnswers, SaidPiece, Wanted
from neuralchat.inference.server.door import Metrics, Visit
from neuralchat.inference.server.lineup import ServedModel
from neuralchat.inference.server.refusals import ClientLeftError, RefusedRequestError
from neuralchat.inference.server.shapes import Shape, json_bytes

# Which messages were made one with those before, if any.
JOINED_HEADER = "X-NeuralChat-Joined"
LONGEST_RETRY_S = 30
# How much the latest request counts in the mean of their durations.
LATEST = 0.2


@dataclass
class Places:
    """How many requests are answered, or wait, at once."""

    most: int
    taken: int = 0
    mean_seconds: float = 1.0

    @contextmanager
    def one(self, *, is_answer: bool = True) -> Iterator[None]:
        """Raises RefusedRequestError where all are taken."""
        if self.taken >= self.most:
            raise RefusedRequestError(
                429,
                f"{self.taken} requests are open, as many as may be; ask again later",
                code="rate_limit_exceeded",
                retry_after=self.retry_after,
            )
        self.taken += 1
        started = time.perf_counter()
        try:
            yield
        finally:
            self.taken -= 1
            if is_answer:
                self.mean_seconds += LATEST * (time.perf_counter() - started - self.mean_seconds)

    @property
    def retry_after(self) -> int:
        """Seconds until a place may have become free."""
        return max(1, min(round(self.mean_seconds), LONGEST_RETRY_S))


@dataclass
class AnswerDesk:
    """What all requests share."""

    engine: Engine
    places: Places
    metrics: Metrics
    # Tokenizing a text takes many times its memory: few at a time.
    readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))


class AnswerResponse(Response):
    """Answers when it is called, and cancels what it has asked of the engine as soon as the client leaves."""

    def __init__(self, desk: AnswerDesk, model: ServedModel, wanted: Wanted, shape: type[Shape]) -> None:
        super().__init__()
        self.desk = desk
        self.model = model
        self.wanted = wanted
        self.shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self.desk.places.one():
                await unless_left(receive, self.answer(scope, receive, send))
        except RefusedRequestError as error:
            await error.response()(scope, receive, send)
        except ClientLeftError:
            # In the midst of a stream nobody could be told anything else.
            scope["state"]["visit"].left = True

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answers = OpenAnswers(self.desk.engine, self.wanted, self.model.token_bytes)
        shape = self.shape(answers, self.model.token_bytes)
        visit: Visit = scope["state"]["visit"]
        try:
            await answers.submit(retry_after=self.desk.places.retry_after)
            said = answers.said()
            # An answer that fails before its first word gets a status that says so.
            first = await anext(said)
            self.desk.metrics.first_token(visit)
            if self.wanted.stream:
                await self.send_events(send, shape, first, said)
            else:
                whole = [first, *[piece async for piece in said]]
                content = json_bytes(shape.whole(whole))
                response = Response(content, headers=joined_header(self.wanted.joined), media_type="application/json")
                await response(scope, receive, send)
        finally:
            answers.cancel()
            visit.tokens = (answers.prompt_tokens, answers.completion_tokens)
            self.desk.metrics.tokens(self.model.name, *visit.tokens)

    async def send_events(self, send: Send, shape: Shape, first: SaidPiece, said: AsyncIterator[SaidPiece]) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            # Proxies would wait for the whole.
            (b"x-accel-buffering", b"no"),
            *[(name.lower().encode(), value.encode()) for name, value in joined_header(self.wanted.joined).items()],
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await send_all(send, shape, [*shape.first_chunks(), *shape.chunks(first)])
            async for piece in said:
                await send_all(send, shape, shape.chunks(piece))
            await send_all(send, shape, shape.last_chunks())
            await send_body(send, shape.end)
        except RefusedRequestError as error:
            # The status is out already.
            await send_all(send, shape, shape.failed_chunks(error))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def joined_header(joined: Sequence[str]) -> dict[str, str]:
    """Tells which messages were made one with those before."""
    return {JOINED_HEADER: ", ".join(joined)} if joined else {}


async def send_all(send: Send, shape: Shape, chunks: Sequence[dict[str, Any]]) -> None:
    for chunk in chunks:
        await send_body(send, shape.event_bytes(chunk))


async def send_body(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def unless_left(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work; when the client leaves before, or this task is cancelled, it is cancelled and has ended afterwards.

    Raises ClientLeftError.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
