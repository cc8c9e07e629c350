"""inference/server/token_bytes.py: bytes of tokens join to the answer, for vocabularies of bytes and of pieces."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support.small_models import make_pieces_tokenizer, make_tokenizer

from neuralchat.inference.answer_text import AnswerText, Frame
from neuralchat.inference.engine.interface import Token
from neuralchat.inference.server.token_bytes import AttributedTokens, TokenBytes

TEXT = "the town is blue, Grüße 世界 🙂🙃\n a.b"
TOKENIZERS = {"bytes": make_tokenizer(), "pieces": make_pieces_tokenizer()}
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def attributed(tokenizer: Any, ids: list[int], **options: Any) -> tuple[str, list[tuple[Token, bytes]]]:
    """(the answer, its tokens as they are handed out)"""
    text = AnswerText(tokenizer, **options)
    tokens = AttributedTokens(text, TokenBytes(tokenizer))
    found = []
    for id_ in ids:
        text.add(id_)
        tokens.add(Token(id_, -0.5))
        found += tokens.taken()
        if text.stopped_at is not None:
            break
    else:
        text.finish(finished=True)
    return text.text, found + tokens.taken(is_last=True)


@each_tokenizer
def test_bytes_join_to_the_answer(tokenizer: Any) -> None:
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    text, found = attributed(tokenizer, ids)
    assert b"".join(share for _, share in found).decode() == text == TEXT
    # The first space of pieces is none of the text.
    assert [token.id for token, _ in found] == ids[len(ids) - len(found) :]
    assert len(ids) - len(found) <= 1


@each_tokenizer
@pytest.mark.parametrize("seed", range(4))
def test_of_any_tokens_too_up_to_any_stop_string(tokenizer: Any, seed: int) -> None:
    chance = random.Random(seed)
    words = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in TEXT]
    for _ in range(30):
        drawn = [id_ for _ in range(24) for id_ in chance.choice(words)]
        whole, _ = attributed(tokenizer, drawn)
        start = chance.randrange(max(len(whole) - 4, 1))
        stop = [whole[start : start + chance.randrange(1, 4)] or "never"]
        text, found = attributed(tokenizer, drawn, stop=stop, frame=Frame(closing="."))
        assert b"".join(share for _, share in found).decode() == text
        assert all(share for _, share in found)


def test_a_space_that_is_left_out_is_no_byte_of_the_first_token() -> None:
    tokenizer = TOKENIZERS["pieces"]
    ids = tokenizer.convert_tokens_to_ids(["▁town", "▁is"])
    text, found = attributed(tokenizer, ids)
    assert (text, [share for _, share in found]) == ("town is", [b"town", b" is"])


@each_tokenizer
def test_special_tokens_are_nothing_in_an_answer_and_named_beside_it(tokenizer: Any) -> None:
    bytes_ = TokenBytes(tokenizer)
    end = tokenizer.eos_token_id
    assert (bytes_.of(end), bytes_.name(end)) == (b"", tokenizer.eos_token.encode())
