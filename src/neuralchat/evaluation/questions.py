"""`neuralchat eval`: ask a run and its base model questions with known answers, and count the right ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralchat.console import note, put
from neuralchat.data.general_prompts import GeneralPrompt
from neuralchat.data.records import TEXT, Fact, Record, RecordReport, Turn, read_records
from neuralchat.errors import ArgumentsError, DataError
from neuralchat.evaluation.facts import alternatives_of, states_facts
from neuralchat.evaluation.sample_answers import rightness, spread_prompts
from neuralchat.files import write_file
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.sampling_flags import sampling_of
from neuralchat.runs.directory import json_text, why_unwritable
from neuralchat.runs.summary import before_and_after

DOMAIN, GENERAL = "questions", "general"


def evaluate(options: argparse.Namespace) -> int:
    sampling = sampling_of(options)
    check_flags(options)
    asked = {
        DOMAIN: options.questions and records_with_facts(options.questions),
        GENERAL: spread_prompts(options.general),
    }
    bot = Chatbot.load(
        options.run,
        trust_remote_code=options.trust_remote_code,
        template=options.template,
        base_model=options.base_model,
    )
    compare = not options.tuned_only
    if compare and not bot.has_base:
        note(f"{options.run} is a whole model, with no base model beside it to compare with")
        compare = False
    scored = {part: scores_of(bot, items, sampling, compare=compare) for part, items in asked.items() if items}
    for rows in scored.values() if options.show else ():
        print_wrong(rows)
    if options.output:
        write_file(Path(options.output), json_text([row for rows in scored.values() for row in rows], indent=1))
    tell(scored)
    return 0


def check_flags(options: argparse.Namespace) -> None:
    """Raises ArgumentsError with all that is wrong with them."""
    wrong = []
    if not options.questions and not options.general:
        wrong.append("nothing to ask: --questions FILE names questions, --general N asks N general ones")
    if options.general < 0:
        wrong.append(f"--general is {options.general}; allowed is 0 or more")
    if options.output:
        output = Path(options.output)
        if not output.absolute().parent.is_dir():
            wrong.append(f"--output {options.output}: the directory {output.parent} does not exist")
        elif output.is_dir():
            wrong.append(f"--output {options.output} is a directory; name a file")
        elif reason := why_unwritable(output):
            wrong.append(f"--output {options.output} cannot be written: {reason}")
    if wrong:
        raise ArgumentsError("\n".join(wrong))


def records_with_facts(path: str) -> list[Record]:
    """Raises DataError where a record is no question, or nothing says what a right answer to it contains."""
    report = RecordReport()
    records = list(read_records([path], report))
    notice = report.settle("fail")
    assert notice is None
    if texts := [record.source for record in records if record.kind == TEXT]:
        raise DataError(f"{len(texts)} record(s) are texts without a question, the first is {texts[0]}")
    if without := [record.source for record in records if not record.facts]:
        raise DataError(
            f"{len(without)} question(s) have no 'facts' (a list of texts that a right answer contains), "
            f"the first is {without[0]}"
        )
    return records


def scores_of(
    bot: Chatbot, items: Sequence[Record | GeneralPrompt], sampling: Sampling, *, compare: bool
) -> list[dict[str, Any]]:
    """For each of them the answer and whether it is right; with `compare` also those of the base model ("before")."""
    asked = [question_turns(item) for item in items]
    rows: list[dict[str, Any]] = [
        {
            "question": turns[-1].content,
            "answer": answer,
            "facts": list(item.facts),
            "right": states_facts(answer, item.facts),
        }
        for item, turns, answer in zip(items, asked, texts(bot, asked, sampling), strict=True)
    ]
    if compare:
        with bot.untuned() as base:
            answers = texts(base, asked, sampling)
        for row, item, answer in zip(rows, items, answers, strict=True):
            row |= {"before": answer, **rightness(item.facts, answer, row["answer"])}
    return rows


def question_turns(item: Record | GeneralPrompt) -> Sequence[Turn]:
    return item.turns[:-1] if isinstance(item, Record) else item.turns


def texts(bot: Chatbot, asked: Sequence[Sequence[Turn]], sampling: Sampling) -> list[str]:
    return [answer.text for answer in bot.answers(asked, sampling)]


def print_wrong(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        if not row["right"]:
            put(f"wrong  {row['question']}\n       said: {row['answer']}\n       facts: {facts_text(row['facts'])}")


def facts_text(facts: Sequence[Fact]) -> str:
    return ", ".join(" or ".join(alternatives_of(fact)) for fact in facts)


def tell(scored: dict[str, list[dict[str, Any]]]) -> None:
    for part, rows in scored.items():
        if (said := before_and_after(rows)) is not None:
            put(f"{part}: {said}")
    for part, rows in scored.items():
        right = sum(row["right"] for row in rows)
        what = "answers" if part == DOMAIN else "general answers"
        put(f"{right} of {len(rows)} {what} state the right fact ({right / len(rows):.0%})")
