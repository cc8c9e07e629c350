"""`neuralchat eval`: ask a run questions and count the answers that state the facts listed with each."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from neuralchat.console import put
from neuralchat.data.records import TEXT, Fact, Record, RecordReport, read_records
from neuralchat.errors import ArgumentsError, DataError
from neuralchat.files import write_file
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling_flags import sampling_of
from neuralchat.runs.directory import json_text, why_unwritable

# Scripts that set no spaces between words, or add endings to them: Thai, kana, Han, Hangul.
UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
WORD = rf"(?:[^\W{UNSPACED}]|-)"
# Where a fact may begin and end: neither is it a piece of a word nor of a number such as 0.8 or 8,000. Compiled once,
# since such ranges take milliseconds.
BEGINNING, END = re.compile(rf"(?<!{WORD})(?<!\d[.,])"), re.compile(rf"(?!{WORD})(?![.,]\d)")


def states_facts(answer: str, facts: Sequence[Fact]) -> bool:
    """Whether every fact, or one of its alternatives, stands in the answer as words of its own.

    >>> states_facts("Use --lora_rank; the default is 8.", ["--lora_rank", "8"])
    True
    >>> states_facts("Use --lora_ranks.", ["--lora_rank"])
    False
    >>> states_facts("Eight of them.", [("8", "eight")])
    True
    """
    return all(any(states(folded(answer), folded(text)) for text in alternatives_of(fact)) for fact in facts)


def folded(text: str) -> str:
    """With the typewriter's apostrophe."""
    return text.replace("\u2019", "'")


def states(answer: str, text: str) -> bool:
    # Looked for ahead, so that places may overlap.
    places = re.finditer(f"(?=({re.escape(text)}))", answer, re.IGNORECASE)
    return any(BEGINNING.match(answer, place.start()) and END.match(answer, place.end(1)) for place in places)


def alternatives_of(fact: Fact) -> tuple[str, ...]:
    return (fact,) if isinstance(fact, str) else fact


def evaluate(options: argparse.Namespace) -> int:
    sampling = sampling_of(options)
    if options.output and not Path(options.output).absolute().parent.is_dir():
        raise ArgumentsError(f"--output {options.output}: the directory {Path(options.output).parent} does not exist")
    if options.output and Path(options.output).is_dir():
        raise ArgumentsError(f"--output {options.output} is a directory; name a file")
    if options.output and (reason := why_unwritable(Path(options.output))):
        raise ArgumentsError(f"--output {options.output} cannot be written: {reason}")
    report = RecordReport()
    records = list(read_records([options.questions], report))
    notice = report.settle("fail")
    assert notice is None
    if texts := [record.source for record in records if record.kind == TEXT]:
        raise DataError(f"{len(texts)} record(s) are texts without a question, the first is {texts[0]}")
    without = [record.source for record in records if not record.facts]
    if without:
        raise DataError(
            f"{len(without)} question(s) have no 'facts' (a list of texts that a right answer contains), "
            f"the first is {without[0]}"
        )
    bot = Chatbot.load(
        options.run,
        trust_remote_code=options.trust_remote_code,
        template=options.template,
        base_model=options.base_model,
    )
    answers = [answer.text for answer in bot.answers([record.turns[:-1] for record in records], sampling)]
    right = [states_facts(answer, record.facts) for record, answer in zip(records, answers, strict=True)]
    if options.show:
        print_wrong(records, answers, right)
    if options.output:
        rows = [
            {"question": record.question.content, "answer": answer, "facts": list(record.facts), "right": ok}
            for record, answer, ok in zip(records, answers, right, strict=True)
        ]
        write_file(Path(options.output), json_text(rows, indent=1))
    put(f"{sum(right)} of {len(right)} answers state the right fact ({sum(right) / len(right):.0%})")
    return 0


def print_wrong(records: Sequence[Record], answers: Sequence[str], right: Sequence[bool]) -> None:
    for record, answer, ok in zip(records, answers, right, strict=True):
        if not ok:
            facts = ", ".join(" or ".join(alternatives_of(fact)) for fact in record.facts)
            put(f"wrong  {record.question.content}\n       said: {answer}\n       facts: {facts}")
