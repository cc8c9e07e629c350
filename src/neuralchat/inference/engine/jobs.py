"""Requests that were taken and wait, handed from the threads of those who ask to the one thread that computes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from neuralchat.errors import is_out_of_memory
from neuralchat.inference.engine.interface import Ended, EngineBusyError, EngineDownError, Event, Reason, Request

CLOSED = "the engine is closed"


class Job:
    """One answer on its way; the ticket of who asked for it.

    `room`: most tokens of the answer. `adapter`: what the engine's shelf gave for the request's model.
    """

    def __init__(self, request: Request, room: int, adapter: Any, on_event: Callable[[Event], None]) -> None:
        self.request, self.room, self.adapter = request, room, adapter
        self.on_event = on_event
        self.on_cancel: Callable[[], None] = lambda: None
        self.cancelled = False

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self.on_cancel()

    def tell(self, event: Event) -> None:
        try:
            self.on_event(event)
        except Exception:  # whoever asked has failed: nobody reads the answer, and the others go on
            self.cancelled = True


@dataclass(frozen=True)
class Outcome:
    """How an answer has ended, before anybody is told."""

    job: Job
    reason: Reason
    error: str = ""
    cached_tokens: int = 0

    def tell(self) -> None:
        self.job.tell(Ended(self.reason, self.error, self.cached_tokens))


class Desk:
    """What waits: at most `most_waiting` jobs, and calls that the computing thread makes between two steps."""

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self.changed = threading.Condition()
        self.jobs: deque[Job] = deque()
        self.calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self.closed_because: str | None = None

    def put(self, job: Job) -> None:
        """Raises EngineBusyError or EngineDownError."""
        with self.changed:
            if self.closed_because is not None:
                raise EngineDownError(self.closed_because)
            if len(self.jobs) >= self.most_waiting:
                raise EngineBusyError(f"{len(self.jobs)} requests wait already, which is the most; ask again later")
            job.on_cancel = self.wake
            self.jobs.append(job)
            self.changed.notify_all()

    def put_first(self, job: Job) -> None:
        """A job that was begun and has to wait once more."""
        with self.changed:
            self.jobs.appendleft(job)

    def call(self, function: Callable[[], Any]) -> Any:
        """What `function` gives when the computing thread calls it, between two steps."""
        answer: Future[Any] = Future()
        with self.changed:
            if self.closed_because is not None:
                raise EngineDownError(self.closed_because)
            self.calls.append((function, answer))
            self.changed.notify_all()
        return answer.result()

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def close(self, because: str = CLOSED) -> None:
        with self.changed:
            self.closed_because = self.closed_because or because
            self.changed.notify_all()

    # For the computing thread

    def wait(self) -> bool:
        """Until there is something to do; False where nothing is, and nothing more will come."""
        with self.changed:
            self.changed.wait_for(lambda: self.jobs or self.calls or self.closed_because is not None)
            return bool(self.jobs or self.calls)

    def run_calls(self) -> None:
        while self.calls:
            with self.changed:
                function, answer = self.calls.popleft()
            try:
                answer.set_result(function())
            except BaseException as error:  # it is raised again where the call came from
                answer.set_exception(error)

    def first(self, fits: Callable[[Job], bool]) -> Job | None:
        """The job that has waited longest of those that fit; it stays where it is."""
        with self.changed:
            return next(filter(fits, self.jobs), None)

    def take(self, job: Job) -> None:
        with self.changed:
            self.jobs.remove(job)

    def take_cancelled(self) -> Iterator[Job]:
        with self.changed:
            cancelled = [job for job in self.jobs if job.cancelled]
            for job in cancelled:
                self.jobs.remove(job)
        yield from cancelled

    def take_all(self) -> list[Job]:
        """Nothing waits any more; calls raise EngineDownError."""
        with self.changed:
            jobs, calls = list(self.jobs), list(self.calls)
            self.jobs.clear()
            self.calls.clear()
        for _, answer in calls:
            answer.set_exception(EngineDownError(self.closed_because or CLOSED))
        return jobs


def reason(error: BaseException) -> str:
    """One line for who asked; nothing of a request is in it."""
    if is_out_of_memory(error):
        return "there is not enough memory for the answer"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
