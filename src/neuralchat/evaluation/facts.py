"""`neuralchat eval`: ask a run questions and count the answers that state the facts listed with each."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from neuralchat.console import put
from neuralchat.data.records import TEXT, Record, RecordReport, read_records
from neuralchat.errors import ArgumentsError, DataError
from neuralchat.files import write_file
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling_flags import sampling_of
from neuralchat.runs.directory import json_text, why_unwritable


def states_facts(answer: str, facts: Sequence[str]) -> bool:
    """Whether every fact stands in the answer as words of its own.

    >>> states_facts("Use --lora_rank; the default is 8.", ["--lora_rank", "8"])
    True
    >>> states_facts("Use --lora_ranks.", ["--lora_rank"])
    False
    """
    # Neither a piece of a word nor of a number such as 0.8 or 8,000.
    before, after = r"(?<![\w-])(?<!\d[.,])", r"(?![\w-])(?![.,]\d)"
    return all(re.search(before + re.escape(fact) + after, answer, re.IGNORECASE) for fact in facts)


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
            put(f"wrong  {record.question.content}\n       said: {answer}\n       facts: {', '.join(record.facts)}")
