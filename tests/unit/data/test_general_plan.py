"""data/general_plan.py: which general prompts stand beside which step, on which rank."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neuralchat.data.batch_plan import BatchPlan
from neuralchat.data.general_plan import GeneralPlan, general_examples
from neuralchat.data.general_prompts import GeneralPrompt, rehearsal_prompts
from neuralchat.data.layout import Layout
from neuralchat.data.packing import VirtualTokens
from neuralchat.data.records import Record, Turn
from neuralchat.data.step_shares import StepShares
from neuralchat.data.templates.making import make_template
from neuralchat.data.tokenization import Encoder, Example, TokenizationCounts


def examples_of(lengths: list[int]) -> list[Example]:
    return [Example(np.arange(n, dtype=np.int32) + i, np.arange(n) > 1, "made up") for i, n in enumerate(lengths)]


@pytest.mark.parametrize("tokens_per_step", [0.3, 4.0, 17.3, 61.0, 130.0])
def test_every_pass_takes_each_prompt_once_in_an_order_of_its_own(tokens_per_step: float) -> None:
    lengths = [3, 9, 14, 5, 20, 7]
    plan = GeneralPlan(examples_of(lengths), seed=3, tokens_per_step=tokens_per_step)
    taken = [index for step in range(round(4 * sum(lengths) / tokens_per_step) + 5) for index in plan.step(step)]
    passes = [taken[first : first + 6] for first in (0, 6, 12, 18)]
    assert all(sorted(one) == list(range(6)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    # Tokens keep pace with the steps.
    for step in (10, 50):
        tokens = sum(lengths[i] for k in range(step) for i in plan.step(k))
        assert abs(tokens - step * tokens_per_step) <= max(lengths)


def test_a_step_is_the_same_whoever_asks_and_whenever() -> None:
    first, again = (GeneralPlan(examples_of([5, 8, 11] * 9), seed=3, tokens_per_step=30.0) for _ in range(2))
    forward = [first.step(k) for k in range(20)]
    assert [again.step(k) for k in reversed(range(20))] == forward[::-1]
    other = GeneralPlan(examples_of([5, 8, 11] * 9), seed=4, tokens_per_step=30.0)
    assert [other.step(k) for k in range(20)] != forward


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_what_one_computes_alone(world_size: int) -> None:
    plan = GeneralPlan(examples_of([5, 8, 11] * 9), seed=3, tokens_per_step=40.0)
    for step in range(12):
        alone = Counter(int(e.input_ids[0]) for e in plan.share(step, 0, 1))
        shared = [plan.share(step, rank, world_size) for rank in range(world_size)]
        assert sum((Counter(int(e.input_ids[0]) for e in share) for share in shared), Counter()) == alone


@pytest.mark.parametrize("steps", [1, 7, 60])
def test_the_base_is_asked_what_is_needed(steps: int) -> None:
    examples = [replace(e, first_known=i) for i, e in enumerate(examples_of([5, 8, 11] * 29))]
    plan = GeneralPlan(examples, seed=3, tokens_per_step=40.0)
    groups = plan.groups_of(steps)
    asked = [e.first_known for group in groups for e in group]
    assert {i for step in range(steps) for i in plan.step(step)} <= set(asked)
    assert len(asked) == len(set(asked)) <= len(examples)
    # A longer run asks the same first.
    assert [e.first_known for group in plan.groups_of(2 * steps) for e in group][: len(asked)] == asked
    assert steps != 1 or len(groups) == 1


def test_positions_per_step_is_what_is_compared_on_average() -> None:
    plan = GeneralPlan(examples_of([5, 8, 11] * 9), seed=3, tokens_per_step=40.0)
    steps = 540
    compared = sum(int(e.supervised.sum()) for step in range(steps) for e in plan.share(step, 0, 1))
    assert compared / steps == pytest.approx(plan.positions_per_step, rel=0.01)


def test_examples_are_what_training_shows_of_the_same_records(tokenizer: Any) -> None:
    template = make_template("alpaca", tokenizer, conversations=False, encoder_decoder=False)
    prompts = rehearsal_prompts()[:20]
    records = [
        Record((*prompt.turns, Turn("assistant", prompt.answer)), f"row {row}", "Alpaca")
        for row, prompt in enumerate(prompts)
    ]
    encoder = Encoder(tokenizer, template, max_seq_length=512, train_on_inputs=False)
    learned = encoder.encode(records, TokenizationCounts())
    examples = general_examples(tokenizer, template, prompts, max_seq_length=512)
    assert [e.input_ids.tolist() for e in examples] == [e.input_ids.tolist() for e in learned]
    # All that is learned of a record is compared, and its question; the common beginning is not.
    assert all(e.supervised[one.supervised].all() for e, one in zip(examples, learned, strict=True))
    (begin,) = {int(np.argmax(e.supervised)) for e in examples}
    assert len({tuple(e.input_ids[:begin]) for e in examples}) == 1
    assert len({int(e.input_ids[begin]) for e in examples}) > 1
    assert [e.first_known for e in examples] == np.cumsum([0, *(e.supervised.sum() for e in examples)])[:-1].tolist()


def test_prompts_that_are_too_long_are_left_out(tokenizer: Any) -> None:
    template = make_template("alpaca", tokenizer, conversations=False, encoder_decoder=False)
    prompts = [GeneralPrompt("Say hello. " * count, "small_talk", answer="Hello!") for count in (1, 400)]
    assert len(general_examples(tokenizer, template, prompts, max_seq_length=200)) == 1


@pytest.mark.parametrize("layout", [None, Layout(), Layout(VirtualTokens(4, in_row=True))])
def test_shares_carry_them_and_do_not_count_them(layout: Layout | None) -> None:
    examples = examples_of([6] * 12)
    plan = BatchPlan("f", (6,) * 12, seed=1, units_per_step=4)
    prompts = [replace(e, first_known=100 * i) for i, e in enumerate(examples_of([5, 8, 11]))]
    general = GeneralPlan(prompts, seed=3, tokens_per_step=12.0)
    options: dict[str, Any] = {"rank": 0, "world_size": 1, "micro_batch_tokens": 64, "layout": layout}
    without = StepShares(examples, plan, **options)  # type: ignore[arg-type]
    shares = StepShares(examples, plan, general=general, **options)  # type: ignore[arg-type]
    for step in range(plan.steps):
        share = shares[step]
        assert (share.tokens, share.supervised_tokens) == (without[step].tokens, without[step].supervised_tokens)
        wanted = sorted(general.step(step))
        if layout is None:
            assert sorted(e.first_known // 100 for batch in share.padded_general for e in batch) == wanted  # type: ignore[operator]
            continue
        numbers = np.concatenate([batch.compared_numbers for batch in share.packed])  # type: ignore[union-attr]
        assert sorted(n // 100 for n in numbers if n % 100 == 0) == wanted
        for batch in share.packed:
            # What predicts the token after the first two, which are 1 and 2 greater than the example's number.
            for position, number in zip(batch.compared_positions, batch.compared_numbers, strict=True):  # type: ignore[union-attr]
                assert batch.input_ids[position] == number // 100 + number % 100 + 1  # type: ignore[union-attr]
