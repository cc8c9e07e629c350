"""Questions answered before and after training, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from neuralchat.data.general_prompts import GeneralPrompt, measured_prompts
from neuralchat.data.prepared_data import PreparedData
from neuralchat.data.record_source import find_records
from neuralchat.data.records import TEXT, Fact, Record, Turn
from neuralchat.errors import ArgumentsError
from neuralchat.evaluation.facts import states_facts
from neuralchat.evaluation.statistics import ALPHA, paired_share_test, wilson
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling
from neuralchat.models.layers.frozen_linear import freeze_linears, thaw_linears


def sample_records(data: PreparedData, count: int) -> list[Record]:
    """The first `count` held-out records, or training records where nothing is held out; texts without a prompt have
    no question.
    """
    store = data.validation if data.validation is not None else data.train
    assert store is not None
    source = data.validation_source if data.validation is not None else data.train_source
    records = find_records(source, [store[i].source for i in range(min(count, len(store)))])
    return [record for record in records if record.kind != TEXT]


def question_of(record: Record) -> str:
    turn = record.question
    return f"{turn.content}\n{turn.context}" if turn.context else turn.content


def samples_of(records: Sequence[Record], before: Sequence[str], after: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """For each record its question, the answer that it gives, and what the model said before and after training; where
    the record has facts, also whether that states them.
    """
    return tuple(
        {
            "question": question_of(record),
            "expected": record.turns[-1].content,
            "before": old,
            "after": new,
            **rightness(record.facts, old, new),
        }
        for record, old, new in zip(records, before, after, strict=True)
    )


def rightness(facts: Sequence[Fact], before: str, after: str) -> dict[str, bool]:
    """
    >>> rightness(["206"], "A lot.", "206 bones.")
    {'right_before': False, 'right_after': True}
    """
    return {"right_before": states_facts(before, facts), "right_after": states_facts(after, facts)} if facts else {}


def difference_of(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How sure the difference of right answers before and after is, as `neuralchat eval` says it: shares from 0 to 1
    with intervals of 95 % (Wilson; `statistics.paired_share_test`), the p-value, and whether a difference can be
    `seen`: just where p is below 5 % and the interval is without zero. None where no facts are known.
    """
    marks = [(s["right_before"], s["right_after"]) for s in samples if "right_before" in s]
    if not marks:
        return None
    lost, gained = marks.count((True, False)), marks.count((False, True))
    before, after = (sum(side) for side in zip(*marks, strict=True))
    test = paired_share_test(lost, gained, len(marks))
    return {
        "questions": len(marks),
        "difference": (gained - lost) / len(marks),
        "interval": list(test.interval(ALPHA)),
        "before_interval": list(wilson(before, len(marks))),
        "after_interval": list(wilson(after, len(marks))),
        "p": test.p,
        "seen": test.p < ALPHA,
    }


def spread_prompts(count: int | None, more: Sequence[GeneralPrompt] = ()) -> list[GeneralPrompt]:
    """`count` of the package's general questions that only measure, or all; from all kinds alike, always the same.

    `more`: others to ask beside them.
    """
    kinds: dict[str, list[GeneralPrompt]] = {}
    for prompt in (*measured_prompts(), *more):
        kinds.setdefault(prompt.kind, []).append(prompt)
    rounds = range(max(map(len, kinds.values())))
    return [found[place] for place in rounds for found in kinds.values() if place < len(found)][:count]


def general_answers_of(
    prompts: Sequence[GeneralPrompt], before: Sequence[str], after: Sequence[str]
) -> tuple[dict[str, Any], ...]:
    """For each general question what the model said before and after training, and whether that was right."""
    return tuple(
        {
            "question": f"{prompt.instruction}\n{prompt.context}".rstrip(),
            "kind": prompt.kind,
            "before": old,
            "after": new,
            **rightness(prompt.facts, old, new),
        }
        for prompt, old, new in zip(prompts, before, after, strict=True)
    )


def ask(
    model: Any,
    tokenizer: Any,
    data: PreparedData,
    questions: Sequence[Sequence[Turn]],
    max_new_tokens: int,
    *,
    beams: int = 1,
) -> list[str]:
    """Likeliest answers of the model as it is now to conversations that end with a question."""
    if not questions:
        return []
    was_training = model.training
    # A single token at a time, torch's own matrix-vector product is the faster one.
    thaw_linears(model)
    try:
        bot = Chatbot(model.eval(), tokenizer, data.template)
        sampling = Sampling(max_new_tokens=max_new_tokens, num_beams=beams)
        texts = {index: too_long(bot, turns, sampling) for index, turns in enumerate(questions)}
        asked = [index for index, refusal in texts.items() if refusal is None]
        answers = bot.answers([questions[index] for index in asked], sampling)
        texts |= {index: answer.text for index, answer in zip(asked, answers, strict=True)}
    finally:
        freeze_linears(model)
        model.train(was_training)
    return [texts[index] or "" for index in range(len(questions))]


def too_long(bot: Chatbot, turns: Sequence[Turn], sampling: Sampling) -> str | None:
    """What stands in the place of an answer to a question that the model has no positions for; None where it has."""
    try:
        bot.prompt(turns, sampling)
    except ArgumentsError as error:
        return f"(not asked: {error})"
    return None


def rouge_of_held_out(
    model: Any, tokenizer: Any, data: PreparedData, *, max_new_tokens: int, beams: int
) -> dict[str, float]:
    """Mean ROUGE-1, -2 and -L F-measures of the answers to all held-out questions, from 0 to 1."""
    from rouge_score.rouge_scorer import RougeScorer

    assert data.validation is not None
    records = sample_records(data, len(data.validation))
    questions = [record.turns[:-1] for record in records]
    answers = ask(model, tokenizer, data, questions, max_new_tokens, beams=beams)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score(r.turns[-1].content, answer) for r, answer in zip(records, answers, strict=True)]
    return {name: round(fmean(score[name].fmeasure for score in scores), 4) for name in scores[0]}
