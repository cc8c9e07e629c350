"""Requests of a plan -> replies to it, in the order of the requests, with several on their way.

What a request is built from are the replies processed before it, in the order of their numbers and never of their
arrival; how many those were stands in the journal, so that a run that goes on builds the same requests again.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from neuralchat.data_tools.generating.teaching.exchange import (
    AskedTeacher,
    TeacherReply,
    TeacherRequest,
    WaitedReply,
    request_key,
)
from neuralchat.data_tools.generating.teaching.journal import Journal
from neuralchat.data_tools.generating.teaching.spending import BudgetReachedError
from neuralchat.errors import NeuralChatError

# Requests on their way: more of them do not know of each other's tasks.
WINDOW = 16
THOUGHTS = re.compile(r"\A\s{0,80}<think>.*?(?:</think>|\Z)", re.DOTALL)
AskedThing = TypeVar("AskedThing")


class TeacherGoneError(NeuralChatError):
    """A teacher that answers none of the requests on their way."""


class RequestPlan(Protocol[AskedThing]):
    """What is asked next, and what is made of the reply. Functions of the replies taken so far and of nothing else."""

    def next_request(self, *, is_replayed: bool) -> tuple[TeacherRequest, AskedThing] | None:
        """None where there is nothing to ask now. `is_replayed`: it was asked before, when more was wanted."""

    def take(self, number: int, asked: AskedThing, reply: TeacherReply) -> None: ...


@dataclass(frozen=True)
class Known:
    """A reply that the journal has."""

    reply: TeacherReply

    def result(self) -> TeacherReply:
        return self.reply

    def done(self) -> bool:
        return True


@dataclass
class OnWay(Generic[AskedThing]):
    number: int
    asked: AskedThing
    waited: WaitedReply


class Pipeline(Generic[AskedThing]):
    """`ended_by`: why it was stopped before the plan had nothing to ask any more; None where it was not."""

    def __init__(
        self,
        plan: RequestPlan[AskedThing],
        teacher: AskedTeacher,
        journal: Journal,
        settings: Mapping[str, Any],
        *,
        window: int = WINDOW,
    ) -> None:
        self.plan, self.teacher, self.journal = plan, teacher, journal
        self.settings, self.window = settings, window
        self.on_way: deque[OnWay[AskedThing]] = deque()
        self.number = self.processed = 0
        self.ended_by: BudgetReachedError | None = None

    def run(self) -> None:
        """Until the plan has nothing to ask, or the budget is reached. Raises TeacherGoneError and JournalError."""
        while True:
            if self.may_build() and self.build():
                continue
            if not self.on_way:
                return
            self.process_oldest()

    def may_build(self) -> bool:
        if self.ended_by is not None:
            return False
        before = self.journal.records.get(self.number)
        if before is not None:
            return self.processed >= before.processed
        return len(self.on_way) < self.window

    def build(self) -> bool:
        """Whether there was a request to send."""
        made = self.plan.next_request(is_replayed=self.number in self.journal.records)
        if made is None:
            return False
        request, asked = made
        key = request_key(self.number, request, self.settings)
        known = self.journal.known_reply(self.number, key)
        waited: WaitedReply
        if known is not None:
            waited = Known(known)
        else:
            try:
                waited = self.teacher.submit(self.number, key, request, self.processed)
            except BudgetReachedError as error:
                # The plan has counted it as asked; nothing is asked of it any more.
                self.ended_by = error
                return False
        self.on_way.append(OnWay(self.number, asked, waited))
        self.number += 1
        return True

    def process_oldest(self) -> None:
        oldest = self.on_way.popleft()
        try:
            reply = oldest.waited.result()
        except BudgetReachedError as error:
            # Of a request that was to be sent again: it waits for the next run, and what came after it too.
            self.ended_by = error
            # What is paid for is to be in the journal.
            while self.on_way:
                is_answered(self.on_way.popleft().waited)
            return
        except NeuralChatError as error:
            reply = self.without_reply(oldest, error)
        self.processed += 1
        self.plan.take(oldest.number, oldest.asked, replace(reply, text=without_thoughts(reply.text)))

    def without_reply(self, oldest: OnWay[AskedThing], error: NeuralChatError) -> TeacherReply:
        """A request that fails again and again is left out if others are answered; else raises TeacherGoneError."""
        if not any(is_answered(each.waited) for each in self.on_way):
            raise TeacherGoneError(
                f"{self.teacher.name} does not answer: {error}. All that it has said is kept; the same command goes on."
            ) from error
        reply = TeacherReply("", problem=str(error))
        self.journal.given_up(oldest.number, reply)
        return reply


def without_thoughts(text: str) -> str:
    """What models that think aloud say before their answer is none of it.

    >>> without_thoughts("<think>Hm, 1. no.</think>\\n1. Yes.")
    '1. Yes.'
    """
    return THOUGHTS.sub("", text).lstrip() if "<think>" in text else text


def is_answered(waited: WaitedReply) -> bool:
    try:
        waited.result()
    except NeuralChatError:
        return False
    return True
