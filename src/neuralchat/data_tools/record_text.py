"""A record -> its texts, as checks look at them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from neuralchat.data.records import TEXT, Record

SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class RecordText:
    """`asked`: what users, tools and the system say, without `context`, Alpaca's input. `answers`: those to be learned.

    `last_asked` and `last_answer` are the last turns. A text without a prompt is an answer.
    """

    record: Record
    asked: str
    context: str
    answers: tuple[str, ...]
    last_asked: str

    @property
    def last_answer(self) -> str:
        return self.answers[-1] if self.answers else ""

    @property
    def is_plain_text(self) -> bool:
        return self.record.kind == TEXT

    @cached_property
    def answer(self) -> str:
        return "\n".join(self.answers)

    @cached_property
    def prompt(self) -> str:
        return f"{self.asked}\n{self.context}" if self.context else self.asked

    @cached_property
    def whole(self) -> str:
        return f"{self.prompt}\n{self.answer}"

    @cached_property
    def prompt_key(self) -> str:
        return without_case(self.prompt)

    @cached_property
    def answer_key(self) -> str:
        return without_case(self.answer)


def record_text(record: Record) -> RecordText:
    turns = record.turns
    if record.kind == TEXT:
        return RecordText(record, "", "", (turns[0].content,), "")
    asked = [turn.content for turn in turns if turn.role != "assistant"]
    # What an assistant said that is not learned belongs to what is asked.
    asked += [turn.content for turn in turns if turn.role == "assistant" and not turn.trained]
    context = "\n".join(turn.context for turn in turns if turn.context)
    answers = tuple(turn.content for turn in turns if turn.role == "assistant" and turn.trained)
    last = next((turn.content for turn in reversed(turns) if turn.role == "user"), "")
    return RecordText(record, "\n".join(asked), context, answers, last)


def without_case(text: str) -> str:
    """Without case and spacing, by which copies differ.

    >>> without_case(" Name  a\\nFruit. ")
    'name a fruit.'
    """
    return SPACES.sub(" ", text).strip().casefold()
