"""The same interface with the engine in a process of its own: its death is an error of the requests, not of the server.

Ids and small objects go through a pipe, in both directions by one thread each. When the process dies, running answers
end as failed and a new one is started; until it is ready, EngineDownError is raised.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from neuralchat.console import note
from neuralchat.errors import NeuralChatError
from neuralchat.inference.engine.interface import Ended, Engine, EngineDownError, EngineStatus, Event, Request, Ticket
from neuralchat.inference.engine.jobs import CLOSED
from neuralchat.inference.engine.process_child import Call, Cancel, Reply, Submit, Told, serve_pipe

# A process that dies at once is not started again at once.
FIRST_PAUSE, LONGEST_PAUSE, STEADY_SECONDS = 0.5, 30.0, 60.0
ANSWER_SECONDS = 600.0
READY_POLL_SECONDS = 0.05
NO_STATUS = EngineStatus(0, 0, 0, 0, 0, 0, 0)
DIED = "the process of the engine has died; it is started again"


class EngineStartError(NeuralChatError):
    """An engine whose process has died before it was ready for the first time: it would die again."""


@dataclass
class Child:
    """One process, from its start to its death. `ready`: its models, once they are loaded."""

    process: Any
    pipe: Any
    sending: threading.Lock
    ready: Future[tuple[str, ...]]

    def send(self, message: object) -> None:
        """Raises EngineDownError where nobody reads any more."""
        try:
            with self.sending:
                self.pipe.send(message)
        except (OSError, ValueError) as error:
            raise EngineDownError(DIED) from error


class RemoteTicket:
    def __init__(self, engine: ProcessEngine, child: Child, number: int) -> None:
        self.engine, self.child, self.number = engine, child, number

    def cancel(self) -> None:
        if self.number in self.engine.answers:
            try:
                self.child.send(Cancel(self.number))
            except EngineDownError:
                # Its answer ends as failed.
                return


class ProcessEngine:
    """`make`: gives the engine in the new process; a function or functools.partial that can be pickled.

    `start_method`: of multiprocessing. The engine is not ready when this returns, see `wait_ready`.
    """

    def __init__(self, make: Callable[[], Engine], *, start_method: str = "spawn") -> None:
        self.make = make
        self.context: Any = multiprocessing.get_context(start_method)
        self.lock = threading.Lock()
        self.numbers = 0
        self.answers: dict[int, Callable[[Event], None]] = {}
        self.replies: dict[int, Future[Any]] = {}
        # What was added while it runs, so that a new process gets it too.
        self.added: dict[str, str] = {}
        self.removed: set[str] = set()
        self.names: tuple[str, ...] = ()
        self.starts = 0
        self.closing = False
        self.failed: EngineStartError | None = None
        self.stopped = threading.Event()
        self.child = self.start()
        self.thread = threading.Thread(target=self.watch, name="neuralchat-engine-watch", daemon=True)
        self.thread.start()

    # From any thread

    def wait_ready(self, seconds: float | None = None) -> None:
        """Until the engine has loaded its models. Raises what it raised there, EngineDownError or TimeoutError."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self.is_ready:
            if self.closing:
                raise EngineDownError(CLOSED)
            if self.failed is not None:
                raise self.failed
            if until is not None and time.monotonic() > until:
                raise TimeoutError("the engine is still loading its models")
            with suppress(FutureTimeoutError):
                error = self.child.ready.exception(READY_POLL_SECONDS)
                if error is not None and not isinstance(error, EngineDownError):
                    raise error
            if self.child.ready.done() and not self.is_ready:
                # The next process is about to be started.
                time.sleep(READY_POLL_SECONDS)

    @property
    def is_ready(self) -> bool:
        ready = self.child.ready
        return not self.closing and ready.done() and ready.exception() is None and self.child.process.is_alive()

    def submit(self, request: Request, on_event: Callable[[Event], None]) -> Ticket:
        child = self.ready_child()
        number, reply = self.expect(on_event)
        try:
            child.send(Submit(number, request))
            reply.result(ANSWER_SECONDS)
        except BaseException:
            self.answers.pop(number, None)
            raise
        finally:
            self.replies.pop(number, None)
        return RemoteTicket(self, child, number)

    def models(self) -> tuple[str, ...]:
        return self.names

    def add_adapter(self, name: str, directory: str) -> None:
        self.call("add_adapter", name, directory)
        with self.lock:
            self.added[name] = directory
            self.removed.discard(name)

    def remove_adapter(self, name: str) -> None:
        self.call("remove_adapter", name)
        with self.lock:
            if self.added.pop(name, None) is None:
                self.removed.add(name)

    def status(self) -> EngineStatus:
        try:
            return self.call("status")
        except EngineDownError:
            return NO_STATUS

    def close(self, *, drain: bool = True) -> None:
        with self.lock:
            self.closing = True
        self.stopped.set()
        try:
            if self.child.ready.done():
                self.call("close", drain, even_closing=True)
            else:
                self.child.process.kill()
        except (NeuralChatError, TimeoutError):
            self.child.process.kill()
        self.child.process.join(10)
        if self.child.process.is_alive():
            self.child.process.kill()
        if threading.current_thread() is not self.thread:
            self.thread.join()

    # Inside

    def ready_child(self, *, even_closing: bool = False) -> Child:
        child = self.child
        if self.closing and not even_closing:
            raise EngineDownError(CLOSED)
        if not child.ready.done() or child.ready.exception() is not None or not child.process.is_alive():
            raise EngineDownError("the engine is loading its models" if child.process.is_alive() else DIED)
        return child

    def expect(self, on_event: Callable[[Event], None] | None = None) -> tuple[int, Future[Any]]:
        reply: Future[Any] = Future()
        with self.lock:
            self.numbers += 1
            self.replies[self.numbers] = reply
            if on_event is not None:
                self.answers[self.numbers] = on_event
            return self.numbers, reply

    def call(self, name: str, *arguments: Any, even_closing: bool = False) -> Any:
        child = self.ready_child(even_closing=even_closing)
        number, reply = self.expect()
        try:
            child.send(Call(number, name, arguments))
            return reply.result(ANSWER_SECONDS)
        finally:
            self.replies.pop(number, None)

    def start(self) -> Child:
        own, other = self.context.Pipe()
        added, removed = dict(self.added), set(self.removed)
        process = self.context.Process(
            target=serve_pipe, args=(other, self.make, added, removed), name="neuralchat-engine", daemon=True
        )
        process.start()
        other.close()
        self.starts += 1
        return Child(process, own, threading.Lock(), Future())

    def watch(self) -> None:
        """Read what a process says until it dies, then start the next one."""
        pause = FIRST_PAUSE
        while True:
            begun = time.monotonic()
            self.read(self.child)
            self.child.process.join()
            self.mourn(self.child)
            if time.monotonic() - begun > STEADY_SECONDS:
                pause = FIRST_PAUSE
            if self.closing or not self.has_begun() or self.stopped.wait(pause):
                return
            pause = min(2 * pause, LONGEST_PAUSE)
            note(f"{DIED} (status {self.child.process.exitcode})")
            with self.lock:
                # Who closes would wait for the new one's models, and for ever.
                if self.closing:
                    return
                self.child = self.start()

    def has_begun(self) -> bool:
        """Whether the engine was ready once; if not, what it has died of is kept for whoever waits."""
        if self.names:
            return True
        status = self.child.process.exitcode
        how = f"signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"status {status}"
        self.failed = EngineStartError(
            f"the process of the engine ended with {how} while it loaded its model; its files may be damaged, or "
            "there is not enough memory for it"
        )
        return False

    def read(self, child: Child) -> None:
        while True:
            try:
                message = child.pipe.recv()
            except (EOFError, OSError):
                return
            if isinstance(message, Told):
                for number, event in message.events:
                    self.tell(number, event)
            elif isinstance(message, Reply) and message.number == 0:
                self.settle(child.ready, message)
            elif isinstance(message, Reply) and (reply := self.replies.get(message.number)) is not None:
                self.settle(reply, message)

    def settle(self, future: Future[Any], message: Reply) -> None:
        if message.models is not None:
            self.names = message.models
        if message.error is None:
            future.set_result(message.value)
        else:
            future.set_exception(message.error)

    def tell(self, number: int, event: Event) -> None:
        on_event = self.answers.pop(number, None) if isinstance(event, Ended) else self.answers.get(number)
        if on_event is None:
            return
        try:
            on_event(event)
        except Exception:  # as in jobs.py: nobody reads this answer any more
            self.answers.pop(number, None)

    def mourn(self, child: Child) -> None:
        """Everybody who waits for a dead process is told."""
        child.pipe.close()
        with self.lock:
            replies, answers = list(self.replies.values()), list(self.answers)
        for future in (*replies, child.ready):
            if not future.done():
                future.set_exception(EngineDownError(DIED))
        for number in answers:
            self.tell(number, Ended("failed", CLOSED if self.closing else DIED))
