"""What runs in the process of an engine: requests out of the pipe, events into it."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from neuralchat.errors import NeuralChatError
from neuralchat.inference.engine.interface import Ended, Engine, EngineDownError, Event, Request, Ticket

NumberedEvents = list[tuple[int, Event]]
# Of an answer whose tokens may come together, so many are sent at a time behind the first, whose time is kept: to wake
# another process and its threads for each one takes time from those that compute.
TOKENS_TOGETHER = 16


@dataclass(frozen=True)
class Submit:
    number: int
    request: Request


@dataclass(frozen=True)
class Cancel:
    number: int


@dataclass(frozen=True)
class Call:
    number: int
    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Reply:
    """To a submission or a call; that to number 0 says that the engine is ready.

    `models`: where they may have changed.
    """

    number: int
    value: Any = None
    error: BaseException | None = None
    models: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Told:
    """Events of answers, in their order."""

    events: NumberedEvents


class PipeWriter:
    """Sends what is put, from a thread of its own: who computes does not wait for who reads."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.waiting: queue.SimpleQueue[Reply | NumberedEvents | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.run, name="neuralchat-engine-pipe", daemon=True)
        self.thread.start()

    def put(self, item: Reply | NumberedEvents) -> None:
        self.waiting.put(item)

    def finish(self) -> None:
        self.waiting.put(None)
        self.thread.join()

    def run(self) -> None:
        while (item := self.waiting.get()) is not None:
            events: NumberedEvents = []
            # All that has come meanwhile goes as one message.
            while isinstance(item, list):
                events += item
                if self.waiting.empty():
                    break
                item = self.waiting.get()
            try:
                if events:
                    self.pipe.send(Told(events))
                if isinstance(item, Reply):
                    self.pipe.send(item)
            except OSError:
                return
            if item is None:
                return


class ChildDesk:
    """Answers the messages of the pipe, one after another."""

    def __init__(self, pipe: Any, engine: Engine) -> None:
        self.pipe, self.engine = pipe, engine
        self.writer = PipeWriter(pipe)
        self.tickets: dict[int, Ticket] = {}

    def serve(self) -> None:
        self.writer.put(Reply(0, models=self.engine.models()))
        while True:
            try:
                message = self.pipe.recv()
            except (EOFError, OSError):
                # Whoever asked is gone.
                self.engine.close(drain=False)
                return
            if isinstance(message, Submit):
                self.submit(message)
            elif isinstance(message, Cancel):
                if (ticket := self.tickets.get(message.number)) is not None:
                    ticket.cancel()
            elif message.name in ("status", "close"):
                self.reply(message)
                if message.name == "close":
                    self.writer.finish()
                    return
            else:
                # Loading takes its time, and others want to ask or to leave meanwhile.
                threading.Thread(target=self.reply, args=(message,), daemon=True).start()

    def submit(self, message: Submit) -> None:
        number, ended = message.number, threading.Event()
        held: list[Event] = []
        room = 1

        def on_event(event: Event) -> None:
            nonlocal room
            held.append(event)
            is_last = isinstance(event, Ended)
            if is_last or len(held) == room:
                self.writer.put([(number, one) for one in held])
                held.clear()
                room = TOKENS_TOGETHER if message.request.may_come_together else 1
            if is_last:
                ended.set()
                self.tickets.pop(number, None)

        try:
            self.tickets[number] = self.engine.submit(message.request, on_event)
        except Exception as error:
            self.writer.put(Reply(number, error=told_error(error)))
        else:
            self.writer.put(Reply(number))
        if ended.is_set():
            # Before its ticket was kept.
            self.tickets.pop(number, None)

    def reply(self, call: Call) -> None:
        try:
            if call.name == "close":
                self.engine.close(drain=call.arguments[0])
                value = None
            else:
                value = getattr(self.engine, call.name)(*call.arguments)
        except Exception as error:
            self.writer.put(Reply(call.number, error=told_error(error)))
        else:
            self.writer.put(Reply(call.number, value, models=self.engine.models()))


def told_error(error: Exception) -> BaseException:
    """What can go through a pipe."""
    if isinstance(error, NeuralChatError):
        return error
    return EngineDownError(f"the engine has failed: {type(error).__name__}: {error}"[:300])


def serve_pipe(pipe: Any, make: Callable[[], Engine], added: Mapping[str, str], removed: Collection[str]) -> None:
    """The work of the process. Adapters that were added and removed before it was started are so again."""
    # Both reach every process of a terminal or a service. The one above decides, and its end closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        engine = make()
        for name in removed:
            engine.remove_adapter(name)
        for name, directory in added.items():
            engine.add_adapter(name, directory)
    except Exception as error:
        with suppress(OSError):
            pipe.send(Reply(0, error=told_error(error)))
        return
    ChildDesk(pipe, engine).serve()
