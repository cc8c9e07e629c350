"""A model on this machine as a teacher: requests are computed together, each is written down as it ends."""

from __future__ import annotations

import dataclasses
import hashlib
import queue
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING

from neuralchat.data.records import Turn
from neuralchat.data_tools.generating.teaching.exchange import TeacherReply, TeacherRequest
from neuralchat.data_tools.generating.teaching.journal import Journal
from neuralchat.data_tools.generating.teaching.spending import Spending
from neuralchat.errors import ArgumentsError, NeuralChatError, TemplateError
from neuralchat.inference.engine.interface import AnswerFailedError, Ended, Engine, Event, Request, whole_answer
from neuralchat.inference.sampling import Sampling

if TYPE_CHECKING:
    from neuralchat.inference.chatbot import Chatbot


@dataclasses.dataclass
class LocalReply:
    teacher: LocalTeacher
    number: int
    bound: tuple[int, int]
    asked: Request | None = None
    heard: list[Event] = dataclasses.field(default_factory=list)
    reply: TeacherReply | None = None
    failure: NeuralChatError | None = None

    def result(self) -> TeacherReply:
        while not self.done():
            self.teacher.settle(self.teacher.over.get())
        if self.failure is not None:
            raise self.failure
        assert self.reply is not None
        return self.reply

    def done(self) -> bool:
        return self.reply is not None or self.failure is not None

    def has_ended_whole(self) -> bool:
        return bool(self.heard) and isinstance(self.heard[-1], Ended) and self.heard[-1].is_whole

    def hear(self, event: Event) -> None:
        """Called by a thread of the engine."""
        self.heard.append(event)
        if isinstance(event, Ended):
            self.teacher.over.put(self)


class LocalTeacher:
    """Costs nothing; its tokens are counted."""

    def __init__(
        self, bot: Chatbot, name: str, sampling: Sampling, journal: Journal, spending: Spending, *, most_on_way: int
    ) -> None:
        self.bot, self.name, self.sampling = bot, name, sampling
        self.journal, self.spending = journal, spending
        # Asked for, and not in the journal yet: Ctrl-C can come between any two steps of what is done with an answer.
        self.on_way: dict[int, LocalReply] = {}
        # Those of them that have ended.
        self.over: queue.SimpleQueue[LocalReply] = queue.SimpleQueue()
        self.most_on_way = most_on_way
        self.resources = ExitStack()

    @cached_property
    def engine(self) -> Engine:
        """Made when the first request needs it: the journal may have all replies."""
        return self.resources.enter_context(self.bot.many(self.most_on_way))

    def close(self) -> None:
        """What is half computed is left; what has ended until the engine is closed is kept."""
        try:
            self.resources.close()
        finally:
            for reply in list(self.on_way.values()):
                if reply.has_ended_whole():
                    self.settle(reply)

    def submit(self, number: int, key: str, request: TeacherRequest, processed: int) -> LocalReply:
        reply = LocalReply(self, number, (request.most_prompt_tokens, request.answer_tokens))
        self.spending.reserve(reply.bound)
        self.journal.sent(number, key, processed, reply.bound)
        sampling = dataclasses.replace(self.sampling, max_new_tokens=request.answer_tokens)
        if sampling.temperature > 0:
            sampling = dataclasses.replace(sampling, seed=seed_of_request(sampling.seed, number, request))
        try:
            prompt = self.bot.prompt([Turn("user", request.prompt)], sampling)
            reply.asked = self.bot.engine_request(self.engine, prompt, sampling)
            self.on_way[number] = reply
            self.engine.submit(reply.asked, reply.hear)
        except (ArgumentsError, TemplateError) as error:
            self.keep(reply, TeacherReply("", problem=str(error)))
        return reply

    def settle(self, reply: LocalReply) -> None:
        """What became of a request whose answer has ended."""
        assert reply.asked is not None
        try:
            ids, finished = whole_answer(reply.asked, reply.heard)
        except AnswerFailedError as error:
            reply.failure = error
            del self.on_way[reply.number]
            self.journal.failed(reply.number, str(error), may_be_paid=False)
            self.spending.settle(reply.bound, None)
            return
        text = self.bot.voice.words(ids, finished=finished)
        self.keep(reply, TeacherReply(text, finished, len(reply.asked.prompt_ids), len(ids)))

    def keep(self, reply: LocalReply, said: TeacherReply) -> None:
        # On the disk before anybody makes something of it.
        self.journal.replied(reply.number, said)
        self.spending.settle(reply.bound, (said.prompt_tokens, said.answer_tokens))
        self.on_way.pop(reply.number, None)
        reply.reply = said


def seed_of_request(seed: int | None, number: int, request: TeacherRequest) -> int:
    """Of the draws of one answer: what is computed beside it, and what was computed by an earlier run, change nothing.

    >>> request = TeacherRequest("tasks", "List tasks.", 12)
    >>> seed_of_request(1, 7, request) == seed_of_request(1, 7, request) != seed_of_request(1, 8, request)
    True
    """
    asked = repr((seed, number, request.purpose, request.prompt)).encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.sha256(asked).digest()[:7])
