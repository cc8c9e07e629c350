"""evaluation/scoring: each score beside answers whose worth is plain, and ROUGE-L beside rouge_score."""

from __future__ import annotations

import doctest
import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from neuralchat.data.records import Turn
from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.scoring import text_scores
from neuralchat.evaluation.scoring.scorers import RIGHT
from neuralchat.evaluation.scoring.text_scores import (
    ends_with_number,
    is_json,
    is_refusal,
    last_number,
    normalised,
    repetition,
    rouge_l,
)


def test_doctests() -> None:
    outcome = doctest.testmod(text_scores)
    assert outcome.attempted >= 4
    assert outcome.failed == 0


def test_rouge_l_is_that_of_rouge_score() -> None:
    words = ["the", "cat", "sat", "on", "a", "mat", "7", "dogs", "ran", "Home"]
    scorer, draw = RougeScorer(["rougeL"]), random.Random(1)
    for _ in range(200):
        one, two = (" ".join(draw.choices(words, k=draw.randint(1, 12))) + "." for _ in range(2))
        assert rouge_l(one, two) == pytest.approx(scorer.score(one, two)["rougeL"].fmeasure)


def test_rouge_l_of_other_scripts() -> None:
    """rouge_score drops what is not ASCII."""
    assert rouge_l("中国的首都是北京", "首都是北京") == pytest.approx(2 * 5 / 13)
    assert rouge_l("Это Москва", "москва") == pytest.approx(2 / 3)
    assert rouge_l("red", "") == 0.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7.0), ("It is 3 and then 4.", 4.0), ("1,234.5 euros", 1234.5), ("minus \u22123", -3.0), ("none", None),
        ("0.5", 0.5), (".5", 0.5), ("10,5", 5.0), ("-2", -2.0), ("10-3", 3.0), ("pages 3-5", 5.0), ("x=-5", -5.0),
        ("1e-3", 0.001), ("6.02e23.", 6.02e23), ("(-4)", -4.0), ("covid-19", 19.0), ("2 - 3", 3.0),
        ("from -3 to -1", -1.0),
    ],
)  # fmt: skip
def test_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number


def test_ends_with_number() -> None:
    assert ends_with_number("so 2 + 2 = 4.", 4)
    assert not ends_with_number("4, since 2 + 2", 4)


@pytest.mark.parametrize(
    ("answer", "keys", "good"),
    [
        ('{"a": 1}', ["a"], True), ('```json\n{"a": 1}\n```', ["a"], True), ('{"b": 1}', ["a"], False),
        ("[1, 2]", True, True), ("[1, 2]", ["a"], False), ('Here: {"a": 1}', ["a"], False), ("", True, False),
    ],
)  # fmt: skip
def test_is_json(answer: str, keys: bool | list[str], good: bool) -> None:
    assert is_json(answer, keys) is good


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("I'm sorry, but I cannot help with that.", True), ("I can\u2019t answer this.", True),
        ("I do not know.", True),
        ("As an AI, I have no name.", True), ("Sorry is what one says.", False), ("I can help with that.", False),
        ("word " * 100 + "I cannot help.", False),
    ],
)  # fmt: skip
def test_refusals(answer: str, expected: bool) -> None:
    assert is_refusal(answer) is expected


def test_repetition_and_normalised() -> None:
    assert repetition("one two three four five") == 0.0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert normalised("The answer: “Paris”.") == "answer paris"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The answer: “Paris”.", "answer paris"), (" The  Eiffel Tower! ", "eiffel tower"), ("A.", "a"),
        ("(B)", "b"), ("1,000", "1000"), ("\u22125", "-5"), ("+5", "5"), (".5", "0.5"), ("3.5.", "3.5"),
        ("50 %", "50%"), ("**Paris**", "paris"), ("`x`", "x"), ("_Paris_", "paris"), ("- Paris", "paris"),
        ("# Paris", "paris"), ("don't", "don\u2019t"), ("well-known", "wellknown"), ("an apple", "apple"),
        ("C++.", "c++"), ("C#!", "c#"),
        ("The “Nile”", "nile"), ("x²", "X2"), ("The.", "the"), ("?", " ? "), ("Yes, the -5", "yes -5"),
    ],
)  # fmt: skip
def test_answers_that_say_the_same(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A", "The"), ("A", ""), ("A", "an"), ("+", "-"), ("+", "?"), ("?", ""), ("-5", "5"), ("3.5", "35"),
        ("C++", "C"), ("C#", "C"), ("C++", "C#"), ("1/2", "12"), ("3,5", "35"), ("3:45", "345"), ("50%", "50"),
        ("$5", "5"), ("10-3", "103"), ("Vitamin A", "Vitamin"), ("A, B", "B"), ("AT&T", "ATT"), ("<", ">"),
        ("x = 5", "x 5"), ("1.000", "1000"), ("-.5", ".5"), ("😀", "😢"), ("a_b", "ab"),
    ],
)  # fmt: skip
def test_answers_that_do_not_say_the_same(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_similarity_of_texts_without_words() -> None:
    assert (rouge_l("+", " + "), rouge_l("+", "-"), rouge_l("", "")) == (1.0, 0.0, 1.0)


def test_an_answer_is_right_where_all_that_is_asked_holds() -> None:
    item = Item("a", (Turn("user", "?"),), facts=("red",), checks={"pattern": r"^\w+ \w+$", "number": 2})
    right = [RIGHT.score(item, Answered(text, 1, True)) for text in ("red 2", "red two 2", "blue 2", "red 3")]
    assert right == [True, False, False, False]
    assert RIGHT.applies(item)
    assert not RIGHT.applies(Item("a", (Turn("user", "?"),), "expected"))
