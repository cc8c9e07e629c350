"""A model on this machine as a teacher: all requests that wait are answered together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from neuralchat.data.records import Turn
from neuralchat.data_tools.generating.teaching.exchange import TeacherReply, TeacherRequest
from neuralchat.data_tools.generating.teaching.journal import Journal
from neuralchat.data_tools.generating.teaching.spending import Spending
from neuralchat.errors import ArgumentsError
from neuralchat.inference.sampling import Sampling

if TYPE_CHECKING:
    from neuralchat.inference.chatbot import Chatbot


@dataclasses.dataclass
class LocalReply:
    """Computed, with all that wait, when the first of them is looked at."""

    teacher: LocalTeacher
    number: int
    request: TeacherRequest
    reply: TeacherReply | None = None

    def result(self) -> TeacherReply:
        if self.reply is None:
            self.teacher.answer_waiting()
        assert self.reply is not None
        return self.reply

    def done(self) -> bool:
        return self.reply is not None


class LocalTeacher:
    """Costs nothing; its tokens are counted."""

    def __init__(self, bot: Chatbot, name: str, sampling: Sampling, journal: Journal, spending: Spending) -> None:
        self.bot, self.name, self.sampling = bot, name, sampling
        self.journal, self.spending = journal, spending
        self.waiting: list[LocalReply] = []

    def close(self) -> None:
        self.waiting = []

    def submit(self, number: int, key: str, request: TeacherRequest, processed: int) -> LocalReply:
        bound = (request.most_prompt_tokens, request.answer_tokens)
        self.spending.reserve(bound)
        self.journal.sent(number, key, processed, bound)
        reply = LocalReply(self, number, request)
        self.waiting.append(reply)
        return reply

    def answer_waiting(self) -> None:
        """Requests of one length of answer are answered together."""
        waiting, self.waiting = self.waiting, []
        for answer_tokens in sorted({each.request.answer_tokens for each in waiting}):
            group = [each for each in waiting if each.request.answer_tokens == answer_tokens]
            sampling = dataclasses.replace(self.sampling, max_new_tokens=answer_tokens)
            for each, reply in zip(group, self.replies([each.request for each in group], sampling), strict=True):
                each.reply = reply
                self.journal.replied(each.number, reply)
                bound = (each.request.most_prompt_tokens, each.request.answer_tokens)
                self.spending.settle(bound, (reply.prompt_tokens, reply.answer_tokens))

    def replies(self, requests: Sequence[TeacherRequest], sampling: Sampling) -> list[TeacherReply]:
        asked: list[Any] = [[Turn("user", request.prompt)] for request in requests]
        problems = [self.bot.question_problem(turns, sampling) for turns in asked]
        fitting = [turns for turns, problem in zip(asked, problems, strict=True) if problem is None]
        try:
            answers = iter(self.bot.answers(fitting, sampling) if fitting else ())
        except ArgumentsError as error:
            return [TeacherReply("", problem=str(error)) for _ in requests]
        found = []
        for turns, problem in zip(asked, problems, strict=True):
            if problem is not None:
                found.append(TeacherReply("", problem=problem))
                continue
            answer = next(answers)
            prompt_tokens = len(self.bot.tokenizer(turns[0].content)["input_ids"])
            found.append(TeacherReply(answer.text, answer.finished, prompt_tokens, len(answer.token_ids)))
        return found
