"""data/tokenization.py: what is supervised, what is cut, and that cutting spares every answer."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_models import make_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from neuralchat.data import tokenization
from neuralchat.data.records import Record, RecordReport, Turn
from neuralchat.data.templates.alpaca import AlpacaTemplate
from neuralchat.data.templates.making import make_template
from neuralchat.data.templates.template import Piece
from neuralchat.data.tokenization import Encoder, Example, Seq2SeqEncoder, longest_prompt_part, tokenize
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.data.tokens.encoding import encode_runs, merge_runs

WORDS = st.sampled_from(["water", " boils", " at", " one", " hundred", "7", "\n", " ", "é", "🙂", "<|end|>"])
TEXTS = st.lists(WORDS, min_size=1, max_size=12).map("".join)


@cache
def shared_tokenizer() -> Any:
    return make_tokenizer()


def encoder_of(kind: str = "alpaca", limit: int = 1000, *, train_on_inputs: bool = False) -> Encoder:
    tokenizer = shared_tokenizer()
    template = make_template(kind, tokenizer)
    return Encoder(tokenizer, template, max_seq_length=limit, train_on_inputs=train_on_inputs)


def record_of(*contents: str, context: str = "", source: str = "f row 1") -> Record:
    """Turns of user and assistant by turns."""
    turns = [Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(contents)]
    return Record((Turn("user", contents[0], context), *turns[1:]), source, "Alpaca")


def plain_ids(text: str) -> list[int]:
    return shared_tokenizer()(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def supervised_text(example: Example) -> str:
    return shared_tokenizer().decode(example.input_ids[example.supervised])


def encode_one(record: Record, encoder: Encoder) -> tuple[Example | None, TokenizationCounts]:
    counts = TokenizationCounts()
    examples = encoder.encode([record], counts)
    return (examples[0] if examples else None), counts


def bare_length(record: Record, encoder: Encoder) -> int:
    """Tokens that stay when every prompt text is empty."""
    turns = [turn if turn.role == "assistant" else Turn(turn.role, "") for turn in record.turns]
    return len(encode_runs(encoder.tokenizer, [merge_runs(encoder.template.render(turns))])[0][0])


@given(question=TEXTS, context=st.just("") | TEXTS, answer=TEXTS)
def test_alpaca_example_is_prompt_answer_end(question: str, context: str, answer: str) -> None:
    encoder = encoder_of()
    example, counts = encode_one(record_of(question, answer, context=context), encoder)
    assert example is not None
    prompt = encoder.encode_prompt([Turn("user", question, context)])
    end = shared_tokenizer().eos_token_id
    assert example.input_ids.tolist() == [*prompt, *plain_ids(answer), end]
    assert example.supervised.tolist() == [False] * len(prompt) + [True] * (len(plain_ids(answer)) + 1)
    assert (counts.tokens, counts.supervised_tokens) == (len(example.input_ids), len(plain_ids(answer)) + 1)
    assert (example.input_ids.dtype, example.supervised.dtype) == (np.int32, np.bool_)


@pytest.mark.parametrize("kind", ["alpaca", "chat"])
@given(contents=st.lists(TEXTS, min_size=2, max_size=6).filter(lambda c: len(c) % 2 == 0), limit=st.integers(10, 160))
def test_cutting_never_loses_an_answer_or_its_end(kind: str, contents: list[str], limit: int) -> None:
    encoder, record = encoder_of(kind, limit), record_of(*contents)
    example, _ = encode_one(record, encoder)
    full, _ = encode_one(record, encoder_of(kind))
    assert full is not None
    if example is None:
        assert bare_length(record, encoder) > limit
        return
    assert len(example.input_ids) <= limit
    assert example.cut_tokens == len(full.input_ids) - len(example.input_ids)
    assert (example.cut_tokens > 0) == (len(full.input_ids) > limit)
    assert supervised_text(example) == "".join(answer + "<|end|>" for answer in contents[1::2])
    learned = example.input_ids[example.supervised]
    assert learned.tolist() == full.input_ids[full.supervised].tolist()


def test_many_prompts_can_all_be_cut() -> None:
    contents = ["water boils at one hundred degrees", "yes"] * 20
    record, free = record_of(*contents), encoder_of("chat")
    limit = bare_length(record, free) + 5
    example, counts = encode_one(record, encoder_of("chat", limit))
    assert counts.unusable == []
    assert example is not None
    assert len(example.input_ids) <= limit


def test_prompt_of_uneven_density_can_be_cut() -> None:
    # An emoji is four tokens of one character, the words at the end have many characters a token.
    record = record_of("🙂" * 300 + " instruction" * 100, "yes")
    full, _ = encode_one(record, encoder_of(limit=10_000))
    assert full is not None
    example, counts = encode_one(record, encoder_of(limit=len(full.input_ids) - 40))
    assert counts.unusable == []
    assert example is not None
    assert supervised_text(example) == "yes<|end|>"


def test_cut_keeps_the_beginning_of_the_longest_part() -> None:
    record = record_of("Name a colour.", "blue", context="water boils at one hundred degrees " * 20)
    encoder = encoder_of(limit=120)
    example, _ = encode_one(record, encoder)
    assert example is not None
    text = shared_tokenizer().decode(example.input_ids)
    assert "### Instruction:\nName a colour.\n\n### Input:\nwater boils at one" in text
    assert text.endswith("\n\n### Response:blue<|end|>")
    assert 110 < len(example.input_ids) <= 120


def test_answer_that_does_not_fit_is_left_out_and_told() -> None:
    answer = "water boils at one hundred degrees"
    example, counts = encode_one(record_of("Why?", answer), encoder_of(limit=len(plain_ids(answer))))
    assert example is None
    assert counts.examples == 0
    learned, fixed = len(plain_ids(answer)) + 1, bare_length(record_of("", answer), encoder_of())
    assert counts.unusable == [
        f"f row 1: the answer ({learned} tokens) and the fixed part of the prompt ({fixed - learned}) take {fixed} "
        f"tokens, more than --max_seq_length {len(plain_ids(answer))}"
    ]


def test_example_at_the_limit_is_not_cut() -> None:
    full, _ = encode_one(record_of("Why?", "yes"), encoder_of())
    assert full is not None
    example, counts = encode_one(record_of("Why?", "yes"), encoder_of(limit=len(full.input_ids)))
    assert example is not None
    assert example.input_ids.tolist() == full.input_ids.tolist()
    assert (counts.cut_examples, counts.cut_tokens) == (0, 0)


def test_train_on_inputs_supervises_all_but_the_first_token() -> None:
    example, counts = encode_one(record_of("Why?", "yes"), encoder_of(train_on_inputs=True))
    assert example is not None
    assert example.supervised.tolist() == [False] + [True] * (len(example.input_ids) - 1)
    assert counts.supervised_tokens == len(example.input_ids) - 1


class AnswerOnlyTemplate(AlpacaTemplate):
    """Renders one supervised token and nothing before it, so there is nothing that could predict it."""

    def render(self, turns: Any, tools: Any = ()) -> list[Piece]:
        return [Piece(self.end_token, special=True, supervised=True)]


def test_record_without_a_token_to_learn_is_told() -> None:
    template = AnswerOnlyTemplate([], "<|end|>")
    encoder = Encoder(shared_tokenizer(), template, max_seq_length=10, train_on_inputs=False)
    example, counts = encode_one(record_of("a", "b"), encoder)
    assert example is None
    assert counts.unusable == ["f row 1: no token to learn"]


def test_counts_add_up_over_records() -> None:
    records = [record_of("Why?", "yes"), record_of("water boils " * 40, "no"), record_of("a", "water " * 80)]
    counts = TokenizationCounts()
    examples = encoder_of(limit=70).encode(records, counts)
    lengths = [len(example.input_ids) for example in examples]
    assert counts.as_dict() == {
        "examples": 2,
        "tokens": sum(lengths),
        "supervised_tokens": len(plain_ids("yes")) + len(plain_ids("no")) + 2,
        "longest": max(lengths),
        "cut_examples": 1,
        "cut_tokens": examples[1].cut_tokens,
        "unusable": counts.unusable,
    }
    assert len(counts.unusable) == 1


def test_notices() -> None:
    assert TokenizationCounts(examples=3).notices("") == []
    counts = TokenizationCounts(examples=9, cut_examples=2, cut_tokens=30, unusable=[f"r{i}" for i in range(7)])
    assert counts.notices("--max_seq_length 512") == [
        "2 of 9 examples were longer than --max_seq_length 512: 30 tokens of prompt text were cut, answers are whole",
        "7 record(s) cannot be trained on and are left out: r0; r1; r2; r3; r4; and 2 more",
    ]


def text_record(text: str) -> Record:
    return Record((Turn("assistant", text),), "f row 1", "text")


def framed_tokenizer() -> Any:
    """One that puts a begin token before every text."""
    tokenizer = make_tokenizer()
    start = tokenizer.convert_tokens_to_ids("<|start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", start)]
    )
    return tokenizer


@pytest.mark.parametrize("kind", ["alpaca", "chat"])
def test_text_without_a_prompt_takes_no_template(kind: str) -> None:
    example, counts = encode_one(text_record("water boils"), encoder_of(kind))
    assert example is not None
    assert example.input_ids.tolist() == [*plain_ids("water boils"), shared_tokenizer().eos_token_id]
    assert example.supervised.tolist() == [False] + [True] * (len(example.input_ids) - 1)
    assert counts.notices("") == []
    tokenizer = framed_tokenizer()
    encoder = Encoder(tokenizer, make_template(kind, tokenizer), max_seq_length=99, train_on_inputs=False)
    (framed,) = encoder.encode([text_record("water boils")], TokenizationCounts())
    begin = tokenizer.convert_tokens_to_ids("<|start|>")
    assert framed.input_ids.tolist() == [begin, *example.input_ids.tolist()]
    assert framed.supervised.tolist() == [False] + [True] * len(example.input_ids)


@pytest.mark.parametrize("framed", [False, True])
@given(text=TEXTS.map(lambda text: text * 4), limit=st.integers(2, 30))
def test_long_text_becomes_examples_that_lose_no_token(framed: bool, text: str, limit: int) -> None:
    tokenizer = framed_tokenizer() if framed else shared_tokenizer()
    encoder = Encoder(tokenizer, make_template("alpaca", tokenizer), max_seq_length=limit, train_on_inputs=False)
    counts = TokenizationCounts()
    examples = encoder.encode([text_record(text)], counts)
    whole = [*plain_ids(text), tokenizer.eos_token_id]
    learned = [int(token) for example in examples for token in example.input_ids[example.supervised]]
    # The first token of all has nothing before it, unless there is a begin token.
    assert learned == (whole if framed else whole[1:])
    assert all(len(example.input_ids) <= limit and example.supervised.any() for example in examples)
    assert (counts.split_texts, counts.split_examples) == ((1, len(examples)) if len(examples) > 1 else (0, 0))


def conversation(*answers: Turn) -> Record:
    turns = [turn for answer in answers for turn in (Turn("user", "Why?"), answer)]
    return Record(tuple(turns), "f row 1", "messages")


@pytest.mark.parametrize("kind", ["alpaca", "chat"])
def test_only_answers_that_are_to_be_learned_are_supervised(kind: str) -> None:
    first, second = Turn("assistant", "one"), Turn("assistant", "two")
    record = conversation(first, second)
    example, _ = encode_one(record, encoder_of(kind))
    assert example is not None
    assert supervised_text(example) == "one<|end|>two<|end|>"
    encoder = encoder_of(kind)
    encoder.supervise = "last"
    last, _ = encode_one(record, encoder)
    masked, _ = encode_one(conversation(replace(first, trained=False), second), encoder_of(kind))
    for found in (last, masked):
        assert found is not None
        assert found.input_ids.tolist() == example.input_ids.tolist()
        assert supervised_text(found) == "two<|end|>"
    nothing, counts = encode_one(conversation(first, replace(second, trained=False)), encoder)
    assert nothing is None
    assert counts.unusable == ["f row 1: no answer of it is to be learned"]


def test_what_does_not_fit_names_all_its_answers() -> None:
    record = conversation(*[Turn("assistant", "water boils " * 5)] * 30)
    example, counts = encode_one(record, encoder_of("chat", limit=200))
    assert example is None
    learned, fixed = 30 * (len(plain_ids("water boils " * 5)) + 1), bare_length(record, encoder_of("chat"))
    assert counts.unusable == [
        f"f row 1: the 30 answers ({learned} tokens) and the fixed part of the prompt ({fixed - learned}) take {fixed} "
        "tokens, more than --max_seq_length 200"
    ]


def word_tokenizer() -> Any:
    """Like T5's: words it does not know are one unknown token, and white space is all alike."""
    backend = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "int": 3, "main": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def test_answers_that_the_vocabulary_cannot_say_are_told_by_row() -> None:
    tokenizer = word_tokenizer()
    template = make_template("alpaca", tokenizer, encoder_decoder=True)
    encoder = Seq2SeqEncoder(tokenizer, template, max_source_length=99, max_target_length=99)
    answers = ["int main { }", "int main", "int\nmain", "{"]
    counts = TokenizationCounts()
    records = [record_of("odd {", answer, source=f"f row {i}") for i, answer in enumerate(answers, start=1)]
    examples = encoder.encode(records, counts)
    unknown = [int((example.input_ids[example.supervised] == 2).sum()) for example in examples]
    assert unknown == [2, 0, 0, 1]
    assert (counts.unknown_examples, counts.unknown_tokens, counts.flattened_examples) == (2, 3, 1)
    assert counts.notices("") == [
        "2 answers have characters that the vocabulary does not have: 3 unknown tokens are trained on, and will be "
        "said; f row 1: { }; f row 4: {",
        "1 answers have line breaks or tabs, which this tokenizer turns into spaces: f row 3",
    ]


def test_nothing_is_unknown_to_a_tokenizer_of_bytes() -> None:
    tokenizer = make_tokenizer()
    tokenizer.unk_token = tokenizer.eos_token
    encoder = Encoder(tokenizer, make_template("alpaca", tokenizer), max_seq_length=99, train_on_inputs=False)
    example, counts = encode_one(record_of("Why?", "{\n\t}"), encoder)
    assert example is not None
    assert counts.notices("") == []


def test_longest_prompt_part_takes_the_system_turn_last() -> None:
    system, user, answer = Turn("system", "s" * 90), Turn("user", "u" * 5, "c" * 7), Turn("assistant", "a" * 99)
    assert longest_prompt_part([system, user, answer]) == (1, "context")
    assert longest_prompt_part([system, Turn("user", "u" * 5), answer]) == (1, "content")
    assert longest_prompt_part([system, Turn("user", ""), answer]) == (0, "content")
    assert longest_prompt_part([Turn("user", ""), answer]) is None


def test_merge_runs_joins_plain_neighbours_of_equal_supervision() -> None:
    end = Piece("<|end|>", special=True)
    pieces = [Piece("a"), Piece("b"), Piece(""), Piece("c", supervised=True), end, end, Piece("d")]
    assert merge_runs(pieces) == [Piece("ab"), Piece("c", supervised=True), end, end, Piece("d")]


def test_encode_runs_equals_one_conversation_at_a_time() -> None:
    conversations = [
        [Piece("<|start|>", special=True), Piece("a b"), Piece("c", supervised=True)],
        [Piece("<|end|>", special=True, supervised=True)],
        [Piece("water boils")],
    ]
    together = encode_runs(shared_tokenizer(), conversations)
    start, end = shared_tokenizer().convert_tokens_to_ids(["<|start|>", "<|end|>"])
    expected = [[start, *plain_ids("a b"), *plain_ids("c")], [end], plain_ids("water boils")]
    assert [ids.tolist() for ids, _ in together] == expected
    assert together[0][1].tolist() == [False] * (1 + len(plain_ids("a b"))) + [True] * len(plain_ids("c"))
    assert together[1][1].tolist() == [True]


def test_tokenize_in_batches_equals_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record_of(f"question {i}", f"answer {i}", source=f"row {i}") for i in range(7)]
    expected = encoder_of().encode(records, TokenizationCounts())
    monkeypatch.setattr(tokenization, "BATCH_RECORDS", 3)
    counts = TokenizationCounts()
    found = list(tokenize(iter(records), encoder_of(), counts, RecordReport()))
    assert [(e.source, e.input_ids.tolist()) for e in found] == [(e.source, e.input_ids.tolist()) for e in expected]
    assert counts.examples == 7
