"""The engine of one model in this process: a thread that computes, fed by the desk, with the shelf's adapters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import torch

from neuralchat.console import note
from neuralchat.inference.engine.alone import answer_alone, limits_alone
from neuralchat.inference.engine.checks import Limits, check_request
from neuralchat.inference.engine.interface import EngineStatus, Event, Request, Ticket
from neuralchat.inference.engine.jobs import CLOSED, Desk, Job, Outcome, reason
from neuralchat.inference.engine.shelf import Shelf, ShelfAdapter
from neuralchat.models.families.architecture import position_limit

MOST_WAITING = 64


class Batch(Protocol):
    """What computes many answers at a time; called by the computing thread only."""

    cached_prompt_tokens: int
    generated_tokens: int

    @property
    def running(self) -> int: ...

    @property
    def memory_tokens(self) -> int: ...

    @property
    def memory_tokens_used(self) -> int: ...

    def jobs(self) -> list[Job]: ...

    def takes(self, adapter: ShelfAdapter | None) -> bool:
        """Whether answers of this adapter can be computed here."""

    def virtual_tokens(self, adapter: ShelfAdapter | None) -> int:
        """How many of the memory's tokens they take in each of its texts."""

    def has_room(self, job: Job) -> bool: ...

    def add(self, job: Job) -> None: ...

    def step(self) -> list[Outcome]:
        """The next token of every running answer; returns those that have ended."""

    def drop_all(self) -> list[Job]:
        """Stop, without telling, and return what was running."""

    def adapters_changed(self) -> None: ...


class TorchEngine:
    """See interface.Engine. `batch`: for what can be answered together; everything else is answered one by one."""

    def __init__(self, shelf: Shelf, batch: Batch | None = None, *, most_waiting: int = MOST_WAITING) -> None:
        self.shelf, self.batch = shelf, batch
        self.desk = Desk(most_waiting)
        self.positions = position_limit(shelf.base.config)
        self.cancel_rest = False
        self.alone: Job | None = None
        self.prompt_tokens = self.generated_alone = 0
        # Nobody waits for it when the program ends.
        self.thread = threading.Thread(target=self.work, name="neuralchat-engine", daemon=True)
        self.thread.start()

    # From any thread

    def submit(self, request: Request, on_event: Callable[[Event], None]) -> Ticket:
        adapter = self.shelf.hold(request.model)
        try:
            room = check_request(request, self.limits(adapter))
            job = Job(request, room, adapter, on_event)
            self.desk.put(job)
        except BaseException:
            self.shelf.give_back(adapter)
            raise
        return job

    def limits(self, adapter: ShelfAdapter | None) -> Limits:
        batched = self.batch is not None and self.batch.takes(adapter)
        model = self.shelf.base if adapter is None else adapter.model
        limits = limits_alone(self.shelf.base, model, self.positions)
        if self.batch is None or not batched:
            return limits
        return limits.with_memory(self.batch.memory_tokens - self.batch.virtual_tokens(adapter))

    def models(self) -> tuple[str, ...]:
        return self.shelf.names()

    def add_adapter(self, name: str, directory: str) -> None:
        def add() -> None:
            with torch.inference_mode(False):
                self.shelf.add(name, directory)
                self.adapters_changed()

        self.desk.call(add)

    def remove_adapter(self, name: str) -> None:
        self.desk.call(lambda: self.shelf.remove(name))

    def status(self) -> EngineStatus:
        batch = self.batch
        return EngineStatus(
            running=(batch.running if batch else 0) + (self.alone is not None),
            waiting=len(self.desk.jobs),
            memory_tokens=batch.memory_tokens if batch else 0,
            memory_tokens_used=batch.memory_tokens_used if batch else 0,
            prompt_tokens_total=self.prompt_tokens,
            cached_prompt_tokens_total=batch.cached_prompt_tokens if batch else 0,
            generated_tokens_total=self.generated_alone + (batch.generated_tokens if batch else 0),
        )

    def close(self, *, drain: bool = True) -> None:
        self.cancel_rest = self.cancel_rest or not drain
        self.desk.close()
        if threading.current_thread() is not self.thread:
            self.thread.join()

    # The computing thread

    def work(self) -> None:
        broken: BaseException | None = None
        try:
            with torch.inference_mode():
                while (self.batch is not None and self.batch.running) or self.desk.wait():
                    self.between_steps()
                    self.answer_next_alone()
        except BaseException as error:  # told to everybody who waits for an answer
            broken = error
            note(f"the engine has failed: {reason(error)}")
        self.desk.close(CLOSED if broken is None else f"the engine has failed: {reason(broken)}")
        left = [*self.desk.take_all(), *(self.batch.drop_all() if self.batch else ()), *filter(None, [self.alone])]
        for one in left:
            Outcome(one, "failed", CLOSED if broken is None else "the engine has failed").tell()

    def between_steps(self) -> None:
        """What happens between two tokens of an answer, and of all answers that are computed together."""
        self.desk.run_calls()
        if self.cancel_rest:
            self.cancel_all()
        for job in self.desk.take_cancelled():
            self.done(Outcome(job, "cancelled"))
        if self.batch is None:
            return
        while (first := self.desk.first(self.is_batched)) is not None and self.batch.has_room(first):
            self.desk.take(first)
            self.prompt_tokens += len(first.request.prompt_ids)
            self.batch.add(first)
        if self.batch.running:
            self.step_batch(self.batch)

    def is_batched(self, job: Job) -> bool:
        return self.batch is not None and self.batch.takes(job.adapter)

    def step_batch(self, batch: Batch) -> None:
        try:
            ended = batch.step()
        except Exception as error:
            ended = [Outcome(job, "failed", reason(error)) for job in batch.drop_all()]
        for outcome in ended:
            self.done(outcome)

    def answer_next_alone(self) -> None:
        job = self.desk.first(lambda job: not self.is_batched(job))
        if job is None:
            return
        self.desk.take(job)
        self.alone = job
        self.prompt_tokens += len(job.request.prompt_ids)
        try:
            tokens, how = answer_alone(self.shelf, job, self.between_steps)
            outcome = Outcome(job, how)
            self.generated_alone += tokens
        except Exception as error:
            outcome = Outcome(job, "failed", reason(error))
        self.alone = None
        self.done(outcome)

    def cancel_all(self) -> None:
        for job in (
            *self.desk.jobs,
            *(self.batch.jobs() if self.batch else ()),
            *((self.alone,) if self.alone else ()),
        ):
            job.cancelled = True

    def done(self, outcome: Outcome) -> None:
        """The last event comes last: by then nothing of the answer is held any more."""
        self.shelf.give_back(outcome.job.adapter)
        if self.shelf.leaving:
            self.shelf.drop_unused()
        outcome.tell()

    def adapters_changed(self) -> None:
        if self.batch is not None:
            self.batch.adapters_changed()
