"""A record -> its texts, as checks look at them."""

from __future__ import annotations

from neuralchat.data.records import TEXT, Record


class RecordText:
    """`asked`: what users, tools and the system say, without `context`, Alpaca's input. `answers`: those to be learned.

    `last_asked`, `last_answer`: the last turn of each. `prompt`, `answer`: what is asked with its context, and all
    answers, each as one text; `whole`: both. A text without a prompt is an answer.
    """

    __slots__ = ("answer", "answers", "asked", "context", "last_answer", "last_asked", "prompt", "record", "whole")

    def __init__(self, record: Record, asked: str, context: str, answers: tuple[str, ...], last_asked: str) -> None:
        self.record = record
        self.asked = asked
        self.context = context
        self.answers = answers
        self.last_asked = last_asked
        self.last_answer = answers[-1] if answers else ""
        self.answer = answers[0] if len(answers) == 1 else "\n".join(answers)
        self.prompt = f"{asked}\n{context}" if context else asked
        self.whole = f"{self.prompt}\n{self.answer}"

    @property
    def is_plain_text(self) -> bool:
        return self.record.kind == TEXT

    @property
    def prompt_key(self) -> str:
        return without_case(self.prompt)

    @property
    def answer_key(self) -> str:
        return without_case(self.answer)


def record_text(record: Record) -> RecordText:
    turns = record.turns
    if record.kind == TEXT:
        return RecordText(record, "", "", (turns[0].content,), "")
    if len(turns) == 2 and turns[1].trained:
        # Most have a question and an answer.
        question, answer = turns
        return RecordText(record, question.content, question.context, (answer.content,), question.content)
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
    return " ".join(text.split()).casefold()
