"""A record -> its texts, as checks look at them."""

from __future__ import annotations

from neuralchat.data.records import TEXT, Record
from neuralchat.data_tools.checking.findings import Place, place_of_source


class RecordText:
    """`asked`: what users, tools and the system say, without `context`, Alpaca's input. `answers`: those to be learned.

    `last_asked`, `last_answer`: the last turn of each. `prompt`, `answer`: what is asked with its context, and all
    answers, each as one text; `whole`: both. A text without a prompt is an answer. `is_single`: one question, one
    answer.
    """

    __slots__ = (
        "answer",
        "answers",
        "asked",
        "context",
        "is_plain_text",
        "is_single",
        "last_answer",
        "last_asked",
        "place",
        "prompt",
        "whole",
    )

    def __init__(
        self,
        place: Place,
        asked: str,
        context: str,
        answers: tuple[str, ...],
        last_asked: str,
        *,
        is_single: bool,
        is_plain_text: bool = False,
    ) -> None:
        self.place = place
        self.asked = asked
        self.context = context
        self.answers = answers
        self.last_asked = last_asked
        self.is_single = is_single
        self.is_plain_text = is_plain_text
        self.last_answer = answers[-1] if answers else ""
        self.answer = answers[0] if len(answers) == 1 else "\n".join(answers)
        self.prompt = f"{asked}\n{context}" if context else asked
        self.whole = f"{self.prompt}\n{self.answer}"

    @property
    def prompt_key(self) -> str:
        return without_case(self.prompt)

    @property
    def answer_key(self) -> str:
        return without_case(self.answer)


def record_text(record: Record) -> RecordText:
    turns, place = record.turns, place_of_source(record.source)
    if record.kind == TEXT:
        return RecordText(place, "", "", (turns[0].content,), "", is_single=False, is_plain_text=True)
    is_single = len(turns) == 2 or (len(turns) == 3 and turns[0].role == "system")
    if len(turns) == 2 and turns[1].trained:
        # Most have a question and an answer.
        question, answer = turns
        return RecordText(
            place, question.content, question.context, (answer.content,), question.content, is_single=True
        )
    asked = [turn.content for turn in turns if turn.role != "assistant"]
    # What an assistant said that is not learned belongs to what is asked.
    asked += [turn.content for turn in turns if turn.role == "assistant" and not turn.trained]
    context = "\n".join(turn.context for turn in turns if turn.context)
    answers = tuple(turn.content for turn in turns if turn.role == "assistant" and turn.trained)
    last = next((turn.content for turn in reversed(turns) if turn.role == "user"), "")
    return RecordText(place, "\n".join(asked), context, answers, last, is_single=is_single)


def without_case(text: str) -> str:
    """Without case and spacing, by which copies differ.

    >>> without_case(" Name  a\\nFruit. ")
    'name a fruit.'
    """
    return " ".join(text.split()).casefold()
