"""generating/rouge_index.py beside the package rouge-score and a search through all pairs."""

from __future__ import annotations

import doctest
import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from neuralchat.data_tools.generating import rouge_index
from neuralchat.data_tools.generating.rouge_index import RougeIndex, bits_of, common_length, rouge_words

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
WORDS = [
    "the",
    "a",
    "of",
    "name",
    "list",
    "explain",
    "bus",
    "cache",
    "why",
    "cost",
    "3.5",
    "GPU-based",
    "isn't",
    "Café",
]


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(1, 16))) for _ in range(count)]


def their_score(one: str, other: str) -> float:
    return SCORER.score(other, one)["rougeL"].fmeasure


@pytest.mark.parametrize("floor", [0.3, 0.7])
def test_the_nearest_is_that_of_rouge_score_over_all_pairs(floor: float) -> None:
    known = texts(120, 1)
    index = RougeIndex(floor)
    for text in known:
        index.add(text)
    found = 0
    for text in texts(60, 2):
        scores = [their_score(text, other) for other in known]
        best = max(scores)
        nearest = index.nearest(text)
        if best >= floor:
            found += 1
            # To the last bit.
            assert nearest == (best, scores.index(best))
        else:
            assert nearest == (0.0, None)
    assert found > 4


def test_places_left_out_are_not_found() -> None:
    index = RougeIndex(0.5)
    for text in ("name the bus", "name the cache", "name the bus of a GPU"):
        index.add(text)
    assert index.nearest("name the bus").place == 0
    assert index.nearest("name the bus", but=[0]) == (their_score("name the bus", "name the cache"), 1)


@pytest.mark.parametrize(
    "text", ["A 16-bit bus, isn't it?", "Café au lait", "", "1,000.50 ± 3", "snake_case and\ttabs\n"]
)
def test_words_are_those_of_rouge_score(text: str) -> None:
    from rouge_score.tokenize import tokenize

    assert rouge_words(text) == tokenize(text, None)


def test_the_longest_common_subsequence_is_that_of_a_table() -> None:
    rng = random.Random(3)
    for _ in range(200):
        one, two = (rng.choices("abcdef", k=rng.randrange(1, 90)) for _ in range(2))
        row = [0] * (len(two) + 1)
        for word in one:
            before = row[:]
            for place, other in enumerate(two, start=1):
                row[place] = before[place - 1] + 1 if word == other else max(before[place], row[place - 1])
        assert common_length(bits_of(one), len(one), two) == row[-1]


def test_doctests() -> None:
    assert doctest.testmod(rouge_index).failed == 0
