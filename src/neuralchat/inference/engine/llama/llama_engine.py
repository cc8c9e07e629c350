"""The engine interface over llama.cpp's server: one whole model, several answers at a time.

An answer is asked for as streams of many tokens, each with the prompt and all that came before: what llama.cpp has in
its memory is not computed again, end tokens are ours to see, and whoever leaves is gone after a token. A slot waits for
a step of the others wherever one stream follows another, so there are few of them. Streams leave out ids of tokens that
end within a character: from such a one on, the answer is asked for in small pieces, which leave out nothing. Nothing
hangs on when a token comes, so seeds mean what they say.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.inference.engine.checks import Limits, check_request
from neuralchat.inference.engine.interface import (
    EngineBusyError,
    EngineDownError,
    EngineStatus,
    Event,
    Request,
    Ticket,
    Token,
    UnknownModelError,
)
from neuralchat.inference.engine.jobs import CLOSED, Job, Outcome, Reason, reason
from neuralchat.inference.engine.llama.llama_server import (
    CONTEXT_STEP,
    AnswerPiece,
    LlamaServer,
    LlamaServerError,
    TokenLeftOutError,
)

# Tokens of a stream, which may have to be drawn anew where one of them is left out, and of a piece.
STREAM_TOKENS, PIECE_TOKENS = 64, 4
MOST_SLOTS, MOST_POSITIONS = 8, 8192
ONE_MODEL = "the engine llamacpp has one model and no adapters beside it; take --engine torch for several"
# In the order of transformers' generate.
SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]
# llama.cpp draws a seed of its own for this one.
SEEDS = (1 << 32) - 1


@dataclass(eq=False)
class Slot:
    """One text in llama.cpp's memory. `ids`: what it holds, as far as is known."""

    number: int
    ids: Sequence[int] = ()


@dataclass
class Counts:
    prompt: int = 0
    cached: int = 0
    generated: int = 0


@dataclass(frozen=True, kw_only=True)
class LlamaSizes:
    """`positions`: of the model. `memory_tokens`: of all texts together."""

    positions: int
    rows: int
    memory_tokens: int
    most_running: int
    most_waiting: int

    @property
    def slots(self) -> int:
        return max(1, min(self.most_running, MOST_SLOTS, self.memory_tokens // CONTEXT_STEP))

    @property
    def context(self) -> int:
        """Positions of each slot."""
        return max(CONTEXT_STEP, min(self.positions, MOST_POSITIONS, self.memory_tokens // self.slots))


@dataclass(eq=False)
class LlamaEngine:
    """See interface.Engine."""

    name: str
    server: LlamaServer
    sizes: LlamaSizes
    lock: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[Job] = field(default_factory=deque)
    running: dict[Job, Slot] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    closed: bool = False

    def __post_init__(self) -> None:
        self.idle = [Slot(number) for number in range(self.sizes.slots)]
        context = min(self.sizes.context, self.sizes.positions)
        self.limits = Limits(self.sizes.rows, self.sizes.rows, context)

    # From any thread

    def submit(self, request: Request, on_event: Callable[[Event], None]) -> Ticket:
        if request.model != self.name:
            raise UnknownModelError(f"there is no model '{request.model:.100}' here; there are: {self.name}")
        check_taken(request)
        job = Job(request, check_request(request, self.limits), None, on_event)
        job.on_cancel = lambda: self.cancelled(job)
        with self.lock:
            if self.closed:
                raise EngineDownError(CLOSED)
            if self.idle:
                self.start(job)
            elif len(self.waiting) >= self.sizes.most_waiting:
                raise EngineBusyError(f"{len(self.waiting)} requests wait already, which is the most; ask again later")
            else:
                self.waiting.append(job)
        return job

    def models(self) -> tuple[str, ...]:
        return (self.name,)

    def add_adapter(self, name: str, directory: str) -> None:  # noqa: ARG002
        raise ArgumentsError(ONE_MODEL)

    def remove_adapter(self, name: str) -> None:  # noqa: ARG002
        raise ArgumentsError(ONE_MODEL)

    def status(self) -> EngineStatus:
        with self.lock:
            return EngineStatus(
                running=len(self.running),
                waiting=len(self.waiting),
                memory_tokens=self.limits.positions or 0,
                memory_tokens_used=sum(len(slot.ids) for slot in self.running.values()),
                prompt_tokens_total=self.counts.prompt,
                cached_prompt_tokens_total=self.counts.cached,
                generated_tokens_total=self.counts.generated,
            )

    def close(self, *, drain: bool = True) -> None:
        with self.lock:
            self.closed = True
            jobs = [] if drain else [*self.running, *self.waiting]
        for job in jobs:
            job.cancel()
        with self.lock:
            self.lock.wait_for(lambda: not self.running and not self.waiting)
        self.server.close()

    def cancelled(self, job: Job) -> None:
        """One that waits ends now; one that runs, after its token."""
        with self.lock:
            if job not in self.waiting:
                return
            self.waiting.remove(job)
            self.lock.notify_all()
        Outcome(job, "cancelled").tell()

    # With the lock

    def start(self, job: Job) -> None:
        """In the slot that holds most of its prompt already."""
        slot = max(self.idle, key=lambda slot: shared_length(slot.ids, job.request.prompt_ids))
        self.idle.remove(slot)
        self.running[job] = slot
        threading.Thread(target=self.answer, args=(job, slot), name="neuralchat-llama", daemon=True).start()

    # A thread for each answer that runs

    def answer(self, job: Job, slot: Slot) -> None:
        outcome = self.outcome(job, slot)
        with self.lock:
            del self.running[job]
            self.idle.append(slot)
            if self.waiting:
                self.start(self.waiting.popleft())
            self.lock.notify_all()
        outcome.tell()

    def outcome(self, job: Job, slot: Slot) -> Outcome:
        """All tokens of one answer."""
        ids, cached, how = list(job.request.prompt_ids), 0, None
        self.counts.prompt += len(ids)
        try:
            with closing(self.pieces(job, slot, ids)) as pieces:
                while how is None:
                    if job.cancelled:
                        return Outcome(job, "cancelled", cached_tokens=cached)
                    first = len(ids) == len(job.request.prompt_ids)
                    piece = next(pieces)
                    if first:
                        cached = piece.cached
                        self.counts.cached += cached
                    how = self.told(job, ids, piece.ids)
                    slot.ids = ids
        except Exception as error:
            slot.ids = ()
            return Outcome(job, "failed", reason(error), cached)
        return Outcome(job, how, cached_tokens=cached)

    def pieces(self, job: Job, slot: Slot, ids: list[int]) -> Generator[AnswerPiece]:
        """What comes after `ids`, which whoever reads this appends to them; without an end."""
        settings, prompt, whole = llama_settings(job.request, self.sizes.context), len(job.request.prompt_ids), True
        seed = job.request.sampling.seed
        if seed is None:
            seed = secrets.randbelow(SEEDS)
        while True:
            began = len(ids)
            seeded, room = settings | {"seed": seed_of(seed, began - prompt)}, job.room - (began - prompt)
            try:
                if whole:
                    yield from self.server.stream(ids, min(STREAM_TOKENS, room), slot.number, seeded)
                else:
                    yield self.server.piece(ids, min(PIECE_TOKENS, room), slot.number, seeded)
                if len(ids) == began:
                    raise LlamaServerError("llama.cpp gave no token")
            except TokenLeftOutError:
                whole, known = False, ids[began:]
                count = min(len(known) + PIECE_TOKENS, room)
                # The same dice fall as before: others would make such tokens rarer than they are.
                again = self.server.piece(ids[:began], count, slot.number, seeded)
                if again.ids[: len(known)] == known:
                    yield AnswerPiece(again.ids[len(known) :], again.cached)

    def told(self, job: Job, ids: list[int], new: Sequence[int]) -> Reason | None:
        """Why the answer is over with the new ids, if it is."""
        for id_ in new:
            ids.append(id_)
            self.counts.generated += 1
            job.tell(Token(id_))
            if id_ in job.request.end_ids:
                return "stop"
            if len(ids) - len(job.request.prompt_ids) >= job.room:
                return "length"
        # llama.cpp takes more tokens for ends of a text than ours; there the answer goes on.
        return None


def check_taken(request: Request) -> None:
    """Raises ArgumentsError for what llama.cpp computes in another way or does not tell."""
    sampling, problems = request.sampling, []
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(sampling, name):
            problems.append(f"--{name}: llama.cpp counts the words of the prompt too")
    if request.top_logprobs is not None:
        problems.append("logprobs: llama.cpp does not tell those of tokens that are no whole character")
    if problems:
        raise ArgumentsError(problem_list("the engine llamacpp does not do this (--engine torch does):", problems))


def llama_settings(request: Request, context: int) -> dict[str, Any]:
    """The sampling in the names of llama.cpp's server; all that it would take from its own defaults is said."""
    s = request.sampling
    return {
        "samplers": SAMPLERS,
        "temperature": s.temperature,
        "top_k": s.top_k,
        "top_p": s.top_p,
        "min_p": s.min_p,
        "repeat_penalty": s.repetition_penalty,
        # All of prompt and answer.
        "repeat_last_n": context if s.repetition_penalty != 1.0 else 0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "dynatemp_range": 0.0,
        "ignore_eos": False,
        "logit_bias": [[id_, number] for id_, number in request.logit_bias.items()],
    }


def seed_of(seed: int, said: int) -> int:
    """Each stream or piece draws from a seed of its own, which follows from that of the answer."""
    return (seed * 1_000_003 + said * 7919 + 12_345) % SEEDS


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def llama_engine(file: Path, name: str, sizes: LlamaSizes, threads: int) -> LlamaEngine:
    """What the process of the engine begins with."""
    # A debugger that looks at what has died would ask the terminal.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    server = LlamaServer(file, positions=sizes.context, slots=sizes.slots, threads=threads)
    return LlamaEngine(name, server, sizes)
