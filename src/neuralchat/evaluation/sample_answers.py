"""Questions answered before and after training, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from neuralchat.data.prepared_data import PreparedData, find_records
from neuralchat.data.records import Record
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling
from neuralchat.models.layers.frozen_linear import freeze_linears, thaw_linears


def sample_records(data: PreparedData, count: int) -> list[Record]:
    """The first `count` held-out records, or training records where nothing is held out."""
    store = data.validation if data.validation is not None else data.train
    assert store is not None
    source = data.validation_source if data.validation is not None else data.train_source
    return find_records(source, [store[i].source for i in range(min(count, len(store)))])


def question_of(record: Record) -> str:
    turn = record.turns[-2]
    return f"{turn.content}\n{turn.context}" if turn.context else turn.content


def samples_of(records: Sequence[Record], before: Sequence[str], after: Sequence[str]) -> tuple[dict[str, str], ...]:
    """For each record its question, the answer that it gives, and what the model said before and after training."""
    return tuple(
        {"question": question_of(record), "expected": record.turns[-1].content, "before": old, "after": new}
        for record, old, new in zip(records, before, after, strict=True)
    )


def ask(
    model: Any, tokenizer: Any, data: PreparedData, records: Sequence[Record], max_new_tokens: int, *, beams: int = 1
) -> list[str]:
    """Likeliest answers of the model as it is now."""
    if not records:
        return []
    was_training = model.training
    # A single token at a time, torch's own matrix-vector product is the faster one.
    thaw_linears(model)
    try:
        bot = Chatbot(model.eval(), tokenizer, data.template)
        answers = bot.answers([r.turns[:-1] for r in records], Sampling(max_new_tokens=max_new_tokens, num_beams=beams))
    finally:
        freeze_linears(model)
        model.train(was_training)
    return [answer.text for answer in answers]


def rouge_of_held_out(
    model: Any, tokenizer: Any, data: PreparedData, *, max_new_tokens: int, beams: int
) -> dict[str, float]:
    """Mean ROUGE-1, -2 and -L F-measures of the answers to all held-out questions, from 0 to 1."""
    from rouge_score.rouge_scorer import RougeScorer

    assert data.validation is not None
    records = sample_records(data, len(data.validation))
    answers = ask(model, tokenizer, data, records, max_new_tokens, beams=beams)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score(r.turns[-1].content, answer) for r, answer in zip(records, answers, strict=True)]
    return {name: round(fmean(score[name].fmeasure for score in scores), 4) for name in scores[0]}
