"""A teacher behind an OpenAI-compatible endpoint: asked again where it is busy or breaks, never beyond the budget."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from concurrent.futures import Future

import httpx

from neuralchat.console import note
from neuralchat.data.records import Turn
from neuralchat.data_tools.generating.teaching.exchange import TeacherReply, TeacherRequest
from neuralchat.data_tools.generating.teaching.journal import Journal
from neuralchat.data_tools.generating.teaching.spending import Spending
from neuralchat.errors import NeuralChatError
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.terminal.server_bot import (
    CONNECT_S,
    ListedModel,
    RefusingServerError,
    ServedAnswer,
    ServerBot,
    client_of,
)

MOST_ATTEMPTS = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
# Of these the request itself is the reason: asking again changes nothing.
REFUSED_REQUEST = (400, 413, 422)
# Of these all requests will fail.
HOPELESS = (401, 402, 403, 404, 405)
QUOTA_GONE = "insufficient_quota"
BUSY = (429, 503)
# What is answered where models are not listed.
NO_LIST = (404, 405, 501)
KEY_HEADER = "Idempotency-Key"


class AskingEndedError(NeuralChatError):
    """Nothing is sent any more."""


@dataclasses.dataclass(frozen=True)
class Manners:
    """How an endpoint is asked. Seconds; `requests_per_minute` 0 is as fast as it answers."""

    parallel: int = 4
    timeout_s: float = 120.0
    requests_per_minute: float = 0.0


class Pace:
    """When the next request may leave: the rate that was set, and what the endpoint has asked for."""

    def __init__(self, requests_per_minute: float) -> None:
        self.gap_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self.lock = threading.Lock()
        self.next_at = time.monotonic()

    def wait(self) -> None:
        with self.lock:
            start = max(self.next_at, time.monotonic())
            self.next_at = start + self.gap_s
        time.sleep(max(0.0, start - time.monotonic()))

    def hold(self, seconds: float) -> None:
        """Nobody asks for so long."""
        with self.lock:
            self.next_at = max(self.next_at, time.monotonic() + seconds)


class ServerTeacher:
    """Each request is a thread that ends with the process; `manners.parallel` of them ask at a time."""

    def __init__(
        self, bot: ServerBot, sampling: Sampling, journal: Journal, spending: Spending, manners: Manners
    ) -> None:
        self.bot, self.sampling = bot, sampling
        self.journal, self.spending, self.manners = journal, spending, manners
        self.name = bot.name
        self.pace = Pace(manners.requests_per_minute)
        self.seats = threading.Semaphore(manners.parallel)
        self.has_ended = threading.Event()
        self.is_told_uncounted = False
        bot.client.timeout = httpx.Timeout(min(CONNECT_S, manners.timeout_s), read=manners.timeout_s)

    def close(self) -> None:
        """What is still on its way is left alone."""
        self.has_ended.set()

    def submit(self, number: int, key: str, request: TeacherRequest, processed: int) -> Future[TeacherReply]:
        bound = (request.most_prompt_tokens, request.answer_tokens)
        self.spending.reserve(bound)
        reply: Future[TeacherReply] = Future()

        def ask() -> None:
            try:
                reply.set_result(self.patient_reply(number, key, request, processed))
            except BaseException as error:
                reply.set_exception(error)

        threading.Thread(target=ask, daemon=True, name=f"request {number}").start()
        return reply

    def patient_reply(self, number: int, key: str, request: TeacherRequest, processed: int) -> TeacherReply:
        """Its budget is set aside already for the first attempt."""
        bound = (request.most_prompt_tokens, request.answer_tokens)
        failure: NeuralChatError | None = None
        for attempt in range(MOST_ATTEMPTS):
            if attempt:
                # Without a seat: those who have set their budget aside must get on.
                self.spending.reserve(bound)
            try:
                answer = self.asked(number, key, request, processed)
            except RefusingServerError as error:
                failure = error
                if error.status in REFUSED_REQUEST:
                    return self.settled(number, bound, TeacherReply("", problem=str(error)))
                may_be_paid = may_have_been_paid(error)
                self.spending.settle(bound, None, may_be_paid=may_be_paid)
                self.journal.failed(number, str(error), may_be_paid=may_be_paid)
                if error.status in HOPELESS or error.code == QUOTA_GONE:
                    raise
                self.wait_after(error, attempt)
            except AskingEndedError:
                self.spending.settle(bound, None)
                raise
            except BaseException as error:
                self.spending.settle(bound, None, may_be_paid=True)
                self.journal.failed(number, f"{type(error).__name__}", may_be_paid=True)
                raise
            else:
                return self.settled(number, bound, self.reply_of(answer, request))
        assert failure is not None
        raise failure

    def asked(self, number: int, key: str, request: TeacherRequest, processed: int) -> ServedAnswer:
        with self.seats:
            self.pace.wait()
            if self.has_ended.is_set():
                raise AskingEndedError("asking has ended")
            self.journal.sent(number, key, processed, (request.most_prompt_tokens, request.answer_tokens))
            sampling = dataclasses.replace(self.sampling, max_new_tokens=request.answer_tokens)
            return self.bot.answer([Turn("user", request.prompt)], sampling, headers={KEY_HEADER: key})

    def settled(self, number: int, bound: tuple[int, int], reply: TeacherReply) -> TeacherReply:
        # On the disk before anybody makes something of it.
        self.journal.replied(number, reply)
        self.spending.settle(bound, (reply.prompt_tokens, reply.answer_tokens))
        return reply

    def reply_of(self, answer: ServedAnswer, request: TeacherRequest) -> TeacherReply:
        """Where the endpoint does not count, what it can have been at most."""
        prompt_tokens, answer_tokens = answer.prompt_tokens, len(answer.token_ids)
        if not prompt_tokens:
            prompt_tokens, answer_tokens = request.most_prompt_tokens, request.answer_tokens
            if not self.is_told_uncounted:
                self.is_told_uncounted = True
                note(f"{self.name} does not say how many tokens it takes; each request counts as the most it can take")
        return TeacherReply(answer.text, answer.finished, prompt_tokens, answer_tokens)

    def wait_after(self, error: RefusingServerError, attempt: int) -> None:
        """Twice as long each time, with jitter, so that those who were refused together do not come back together."""
        longest = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)
        seconds = longest * random.uniform(0.5, 1.0)
        if error.status in BUSY:
            seconds = max(seconds, error.retry_after_s)
            self.pace.hold(error.retry_after_s)
        self.has_ended.wait(seconds)


def may_have_been_paid(error: RefusingServerError) -> bool:
    """Whether the endpoint may have computed an answer that nobody received."""
    if error.status:
        return error.status >= 500 and error.status not in BUSY
    return not isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)


def connected_bot(base_url: str, model: str | None, key: str | None) -> ServerBot:
    """Raises ArgumentsError for an address that is none, RefusingServerError where nobody answers."""
    try:
        return ServerBot.connect(base_url, model=model, key=key)
    except RefusingServerError as error:
        if model is None or error.status not in NO_LIST:
            raise
        # An endpoint that answers and does not list its models.
        return ServerBot(client_of(base_url, key), (), ListedModel(model, None))
