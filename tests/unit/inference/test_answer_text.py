"""inference/answer_text.py: ids as they come make the text that they make together, up to a stop string."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from support.small_models import make_pieces_tokenizer, make_tokenizer

from neuralchat.inference.answer_text import HALF, NO_FRAME, AnswerText, Frame, decoded
from neuralchat.inference.generation.answering import TextStream

TEXT = "Grüße, 世界! 🙂🙃 a\n\nb  c\td — the town is blue and green. "


TOKENIZERS = {"bytes": make_tokenizer(), "pieces": make_pieces_tokenizer()}
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def spoken(text: AnswerText, ids: Sequence[int], *, finished: bool = True) -> list[str]:
    return [*(text.add(token) for token in ids), text.finish(finished=finished)]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@each_tokenizer
@pytest.mark.parametrize("seed", range(6))
def test_any_tokens_make_the_text_that_they_make_together(tokenizer: Any, seed: int) -> None:
    """Also bytes that are no text, in answers long enough that older tokens are not decoded any more.

    Where characters are bytes between pieces, a byte that fits nothing takes those before it along, whatever was shown.
    """
    chance = random.Random(seed)
    drawn = [i for i, name in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))) if name[:3] != "<0x"]
    ids: list[int] = []
    while len(ids) < 400:
        is_text = chance.random() < 0.7
        ids += ids_of(tokenizer, TEXT) if is_text else chance.choices(drawn[3:], k=9)
    frame = Frame("", "\n")
    text = AnswerText(tokenizer, frame)
    for count, token in enumerate(ids, start=1):
        before = text.text
        piece = text.add(token)
        certain = frame.certain_words(tokenizer, ids[:count])
        assert before + piece == text.text == (before if certain.endswith(HALF) else certain)
    assert text.text + text.finish(finished=True) == frame.words(tokenizer, ids, finished=True)
    assert len(text.growing.recent) < 200


@each_tokenizer
def test_no_half_of_a_character_is_handed_out(tokenizer: Any) -> None:
    ids = ids_of(tokenizer, TEXT * 3)
    pieces = spoken(AnswerText(tokenizer), ids)
    assert "".join(pieces) == decoded(tokenizer, ids)
    assert not any(HALF in piece for piece in pieces)
    assert "🙂" in "".join(pieces)


def test_what_never_becomes_a_character_comes_at_the_end() -> None:
    tokenizer = TOKENIZERS["bytes"]
    half = ids_of(tokenizer, "🙂")[:2]
    pieces = spoken(AnswerText(tokenizer), [*ids_of(tokenizer, "a"), *half], finished=False)
    assert pieces[0] == "a"
    assert pieces[-1] == HALF == "".join(pieces[1:])


STOPS = ["town", "🙃", "\n\nb", "e and g", ". ", "世界!", "Gr"]


@each_tokenizer
@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_string_ends_the_text_exactly(tokenizer: Any, stop: str) -> None:
    for words in (TEXT, "".join(reversed(TEXT))):
        ids = ids_of(tokenizer, words)
        whole = decoded(tokenizer, ids)
        text = AnswerText(tokenizer, stop=["never said", stop])
        pieces = spoken(text, ids)
        assert "".join(pieces) == whole.partition(stop)[0]
        assert text.stopped_at == (stop if stop in whole else None)


def test_where_tokens_begin_and_end_does_not_matter() -> None:
    tokenizer = TOKENIZERS["bytes"]
    for words in ("say abcd now", "say ab and abc"):
        letters = [token for letter in words for token in ids_of(tokenizer, letter)]
        for stop in (["abc", "b"], ["abd", "abc", "now"], ["ay a", "say abx"], ["w", "c"]):
            found = [AnswerText(tokenizer, stop=stop) for _ in range(2)]
            said = ["".join(spoken(found[0], ids_of(tokenizer, words))), "".join(spoken(found[1], letters))]
            assert (
                said[0]
                == said[1]
                == words[: min((words.find(s) + len(s), words.find(s)) for s in stop if s in words)[1]]
            )
            assert found[0].stopped_at == found[1].stopped_at


def test_what_may_become_a_stop_string_waits_and_comes_when_it_does_not() -> None:
    tokenizer = TOKENIZERS["bytes"]
    text = AnswerText(tokenizer, stop=["###"])
    said = [text.add(token) for token in [*ids_of(tokenizer, "a#"), *ids_of(tokenizer, "#"), *ids_of(tokenizer, "b#")]]
    assert said == ["a", "", "", "##b", ""]
    assert (text.known, text.given) == (5, 4)
    assert text.finish(finished=True) == "#"


def test_nothing_comes_after_a_stop_string() -> None:
    tokenizer = TOKENIZERS["bytes"]
    text = AnswerText(tokenizer, stop=["b"])
    assert spoken(text, ids_of(tokenizer, "a")[:1]) == ["a", ""]
    assert spoken(text, ids_of(tokenizer, "bcd b")) == [""] * (len(ids_of(tokenizer, "bcd b")) + 1)


def test_the_frame_is_no_part_of_the_text() -> None:
    tokenizer = TOKENIZERS["bytes"]
    ids = ids_of(tokenizer, "<t></t>")
    frame = Frame("<t></t>", "\n")
    for finished, end in ((True, ""), (False, "\n")):
        pieces = spoken(AnswerText(tokenizer, frame), [*ids, *ids_of(tokenizer, "a\nb\n")], finished=finished)
        assert "".join(pieces) == "a\nb" + end
        assert pieces[: len(ids)] == [""] * len(ids)
    # What only begins as the frame does is the answer.
    assert "".join(spoken(AnswerText(tokenizer, frame), ids_of(tokenizer, "<t>x"))) == "<t>x"


def test_with_special_tokens_in_the_opening_all_before_it_is_reasoning() -> None:
    tokenizer = TOKENIZERS["bytes"]
    start = tokenizer.convert_tokens_to_ids("<|start|>")
    opening = [start, *ids_of(tokenizer, "final")]
    frame = Frame("final", "", tuple(opening))
    ids = [*ids_of(tokenizer, "thoughts"), *opening, *ids_of(tokenizer, "a b")]
    pieces = spoken(AnswerText(tokenizer, frame), ids)
    assert "".join(pieces) == "a b" == frame.words(tokenizer, ids, finished=True)
    without = ids_of(tokenizer, "thoughts")
    assert "".join(spoken(AnswerText(tokenizer, frame), without)) == frame.words(tokenizer, without, finished=True)


def test_a_streamer_leaves_prompt_and_end_token_out() -> None:
    import torch

    tokenizer = TOKENIZERS["bytes"]
    said: list[str] = []
    stream = TextStream(AnswerText(tokenizer, NO_FRAME), [2], said.append)
    for ids in ([[5, 6, 7]], *([token] for token in [*ids_of(tokenizer, "a🙂"), 2])):
        stream.put(torch.tensor(ids))
    stream.end()
    assert "".join(said) == "a🙂"
    assert stream.finished
