"""Prompt ids -> ids of the answer: what every engine offers, whatever computes behind it. Imports nothing heavy.

An engine knows no text: templates, stop strings and words are the business of who asks. It reports through a callback,
since an answer comes token by token and many are computed at a time; `tokens_of` makes a loop of one answer.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from neuralchat.errors import NeuralChatError
from neuralchat.inference.sampling import Sampling

# "stop": an end token came. "length": max_new_tokens, the model's last position, or the whole memory is full.
# "failed": see Ended.error.
Reason = Literal["stop", "length", "cancelled", "failed"]


class EngineBusyError(NeuralChatError):
    """As many requests wait as may; to be asked again later."""


class EngineDownError(NeuralChatError):
    """The engine is closed, has crashed, or begins anew."""


class AnswerFailedError(NeuralChatError):
    """An answer that an engine could not compute to its end."""


class UnknownModelError(NeuralChatError):
    """A request names a model that the engine does not have."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer that is wanted.

    `model`: a name of `Engine.models()`. `end_ids`: tokens that end the answer; they are reported as its last token.
    `logit_bias`: numbers added to the scores of tokens before anything else. `top_logprobs`: None for no
    log-probabilities; otherwise that of each token, and of so many of the likeliest beside it. They are of the model's
    own distribution (temperature 1, no bias, no penalty).
    `sampling.seed`: equal requests with equal seeds get equal answers, whatever is computed beside; None draws one.
    `may_come_together`: nobody reads the tokens one by one, so that several may be reported at a time.
    """

    prompt_ids: tuple[int, ...]
    model: str
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: frozenset[int] = frozenset()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    may_come_together: bool = False


@dataclass(frozen=True)
class Token:
    """One token of an answer; `top`: (id, log-probability) of the likeliest, best first."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Ended:
    """The last event of every answer. `cached_tokens`: of the prompt, that had not to be computed again."""

    reason: Reason
    error: str = ""
    cached_tokens: int = 0

    @property
    def is_whole(self) -> bool:
        return self.reason in ("stop", "length")


Event = Token | Ended


class Ticket(Protocol):
    """A request that an engine has taken."""

    def cancel(self) -> None:
        """Stop within a step; Ended("cancelled") follows unless the answer has ended already. May be called twice."""


@dataclass(frozen=True)
class EngineStatus:
    """`memory_tokens`: keys and values that have room at all; `memory_tokens_used`: that are held by answers."""

    running: int
    waiting: int
    memory_tokens: int
    memory_tokens_used: int
    prompt_tokens_total: int
    cached_prompt_tokens_total: int
    generated_tokens_total: int


class Engine(Protocol):
    """All methods may be called from any thread."""

    def submit(self, request: Request, on_event: Callable[[Event], None]) -> Ticket:
        """Take a request; `on_event` is called from a thread of the engine: each Token, then Ended once.

        `on_event` must return at once. Raises ArgumentsError where the request cannot be answered (a prompt that leaves
        no token of the model's positions or of the whole memory to its answer, beams, ids outside the vocabulary),
        UnknownModelError, EngineBusyError or EngineDownError; then it is never called.
        """

    def models(self) -> tuple[str, ...]:
        """The base model's name first, then those of the adapters."""

    def add_adapter(self, name: str, directory: str) -> None:
        """Load a PEFT adapter of the same base beside the others, while answers go on."""

    def remove_adapter(self, name: str) -> None:
        """Running answers of it go on; new ones raise UnknownModelError."""

    def status(self) -> EngineStatus: ...

    def close(self, *, drain: bool = True) -> None:
        """Take nothing more; with `drain` the running answers end first, otherwise they are cancelled."""


def tokens_of(engine: Engine, request: Request) -> Iterator[Event]:
    """The events of one answer as a loop; leaving it early cancels the answer."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    ticket = engine.submit(request, events.put)
    try:
        while True:
            event = events.get()
            yield event
            if isinstance(event, Ended):
                return
    finally:
        ticket.cancel()


def whole_answer(request: Request, events: Sequence[Event]) -> tuple[list[int], bool]:
    """(ids without the end token, whether one came) of all events of an answer. Raises AnswerFailedError.

    >>> request = Request(prompt_ids=(1,), model="base", end_ids=frozenset([2]))
    >>> whole_answer(request, [Token(7), Token(2), Ended("stop")])
    ([7], True)
    """
    *tokens, ended = events
    assert isinstance(ended, Ended)
    if not ended.is_whole:
        raise AnswerFailedError(f"the answer could not be computed: {ended.error or ended.reason}")
    ids = [token.id for token in tokens if not isinstance(token, Ended)]
    return [id_ for id_ in ids if id_ not in request.end_ids], ended.reason == "stop"
