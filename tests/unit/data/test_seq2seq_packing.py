"""Encoder-decoder examples: their rows, their limits, their template."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neuralchat.data.layout import Layout
from neuralchat.data.packing import VirtualTokens
from neuralchat.data.records import Record, Turn
from neuralchat.data.seq2seq_packing import pack_seq2seq, source_and_target
from neuralchat.data.templates.making import make_template
from neuralchat.data.tokenization import Example, Seq2SeqEncoder
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.errors import TemplateError


def pair(source: list[int], target: list[int]) -> Example:
    return Example(np.array([*source, *target]), np.array([False] * len(source) + [True] * len(target)), "r")


def test_the_rows_of_the_module_docstring() -> None:
    a, b, c, d, x, y, z, start = range(10, 18)
    batch = pack_seq2seq([pair([a, b, c], [x, y]), pair([d], [z])], start_id=start)
    assert batch.source_ids.tolist() == [a, b, c, d]
    assert batch.decoder_ids.tolist() == [start, x, start]
    assert batch.target_ids.tolist() == [x, y, z]
    assert (batch.source_ranges, batch.target_ranges) == (((0, 3), (3, 4)), ((0, 2), (2, 3)))
    assert (batch.tokens, batch.supervised_tokens) == (7, 3)


def test_virtual_tokens_stand_before_every_source() -> None:
    batch = pack_seq2seq([pair([5, 6], [7]), pair([8], [9])], start_id=0, virtual=VirtualTokens(2, in_row=True))
    assert batch.source_ids.tolist() == [-1, -2, 5, 6, -1, -2, 8]
    assert batch.source_ranges == ((0, 4), (4, 7))


def test_micro_batches_share_nothing_and_stay_within_the_budget() -> None:
    layout = Layout(VirtualTokens(3, in_row=True), decoder_start_id=0)
    examples = [pair([1, 2, 3, i], [9, i]) for i in range(6)]
    batches: Any = layout.micro_batches(examples, 20)
    assert [len(batch.sources) for batch in batches] == [2, 2, 2]
    assert all(len(b.source_ids) + len(b.decoder_ids) <= 20 for b in batches)


def test_the_source_ends_with_the_end_token_and_so_does_the_target(tokenizer: Any) -> None:
    template = make_template("auto", tokenizer, encoder_decoder=True)
    encoder = Seq2SeqEncoder(tokenizer, template, max_source_length=200, max_target_length=20)
    turns = (Turn("user", "Name a fruit."), Turn("assistant", "An apple."))
    (example,) = encoder.encode([Record(turns, "r", "Alpaca")], TokenizationCounts())
    source, target = source_and_target(example)
    assert tokenizer.decode(source).endswith("### Instruction:\nName a fruit.\n\n### Response:<|end|>")
    assert tokenizer.decode(target) == "An apple.<|end|>"
    # What chat sends is what training learned from.
    assert encoder.encode_prompt(turns[:1]) == source.tolist()


def test_earlier_turns_are_part_of_the_source(tokenizer: Any) -> None:
    template = make_template("alpaca", tokenizer, encoder_decoder=True)
    turns = [Turn("user", "one"), Turn("assistant", "two"), Turn("user", "three"), Turn("assistant", "four")]
    pieces = template.render(turns)
    assert [piece.text for piece in pieces if piece.supervised] == ["four", "<|end|>"]
    assert "two" in pieces[0].text
    assert template.render(turns[:3]) == pieces[:2]


def test_a_chat_template_is_refused(tokenizer: Any) -> None:
    with pytest.raises(TemplateError, match="encoder-decoder models take --template alpaca"):
        make_template("chat", tokenizer, encoder_decoder=True)
