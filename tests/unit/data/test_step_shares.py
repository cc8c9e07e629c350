"""A rank's items are the plan's steps, whoever loads them; nothing is lost between micro-batches."""

from __future__ import annotations

from support.packed import numbered_examples

from neuralchat.data.step_shares import split_padded


def test_padded_batches_stay_within_the_budget_with_their_padding() -> None:
    examples = numbered_examples([9, 2, 5, 5, 30, 1])
    batches = split_padded(examples, 12)
    assert [[len(e.input_ids) for e in batch] for batch in batches] == [[30], [9], [5, 5], [2, 1]]
    assert sorted(e.source for batch in batches for e in batch) == sorted(e.source for e in examples)
