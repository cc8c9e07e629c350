"""Which of many texts is nearest to another by ROUGE-L, exactly, without comparing it with each of them.

The words of a text's longest common subsequence with another are words that both have. Counting shared words by an
inverted index therefore bounds the score from above; only texts whose bound reaches the floor are compared.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from neuralchat.evaluation.scoring.text_scores import ROUGE_WORD

# As the package rouge-score splits texts.
ROUGE_SCORE_WORD = re.compile(r"[a-z0-9]+")
ASCII_LETTER = re.compile(r"[a-z]")
# Of a bound and a score that are rounded in different ways.
SCORE_ROUNDING = 1e-9


class Nearest(NamedTuple):
    """`score`: ROUGE-L's F-measure; 0 and None where no text reaches the floor."""

    score: float
    place: int | None


class RougeIndex:
    """Texts by their words. Places are numbered from 0 in the order of `add`.

    >>> index = RougeIndex(floor=0.5)
    >>> index.add("Name three parts of a computer."), index.add("Write a letter to a customer.")
    (0, 1)
    >>> index.nearest("Name four parts of a computer.")
    Nearest(score=0.8333333333333334, place=0)
    >>> index.nearest("Explain how interest is computed.")
    Nearest(score=0.0, place=None)
    """

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self.words: list[list[str]] = []
        self.lengths = array("i")
        # (word, how often it came before in the text) -> places.
        self.places: dict[tuple[str, int], array[int]] = {}

    def __len__(self) -> int:
        return len(self.words)

    def add(self, text: str) -> int:
        words = rouge_words(text)
        place = len(self.words)
        self.words.append(words)
        self.lengths.append(len(words))
        for word in numbered_words(words):
            self.places.setdefault(word, array("i")).append(place)
        return place

    def nearest(self, text: str, *, but: Collection[int] = ()) -> Nearest:
        """The highest score of at least `floor`, and the first text that has it. `but`: places that are left out."""
        words = rouge_words(text)
        bits = bits_of(words)
        found = Nearest(0.0, None)
        for place, bound in self.possible(words):
            if bound + SCORE_ROUNDING < max(found.score, self.floor):
                break
            if place in but:
                continue
            score = f_measure(common_length(bits, len(words), self.words[place]), len(words), len(self.words[place]))
            better = score > found.score or (score == found.score and found.place is not None and place < found.place)
            if score >= self.floor and better:
                found = Nearest(score, place)
        return found

    def possible(self, words: Sequence[str]) -> list[tuple[int, float]]:
        """(place, the highest score that it can have) of those that can reach the floor, the highest first."""
        lists = [held for word in numbered_words(words) if (held := self.places.get(word)) is not None]
        if not lists:
            return []
        joined = np.concatenate([np.frombuffer(held, np.int32) for held in lists])
        shared = np.bincount(joined, minlength=len(self.words))
        lengths = np.frombuffer(self.lengths, np.int32)
        bounds = 2.0 * shared / (lengths + len(words))
        places = np.flatnonzero(bounds + SCORE_ROUNDING >= self.floor)
        # Stable: of two that are alike the first comes first.
        ordered = places[np.argsort(-bounds[places], kind="stable")]
        return list(zip(ordered.tolist(), bounds[ordered].tolist(), strict=True))


def rouge_words(text: str) -> list[str]:
    """The words as rouge-score has them; it sees none in other scripts, whose words or characters are taken here.

    >>> rouge_words("A 16-bit bus, isn't it?"), rouge_words("Что это?")
    (['a', '16', 'bit', 'bus', 'isn', 't', 'it'], ['что', 'это'])
    """
    lower = text.lower()
    if text.isascii() or ASCII_LETTER.search(lower):
        return ROUGE_SCORE_WORD.findall(lower)
    return ROUGE_WORD.findall(lower)


def numbered_words(words: Sequence[str]) -> list[tuple[str, int]]:
    """
    >>> numbered_words(["a", "b", "a"])
    [('a', 0), ('b', 0), ('a', 1)]
    """
    seen: dict[str, int] = {}
    numbered = []
    for word in words:
        times = seen.get(word, 0)
        seen[word] = times + 1
        numbered.append((word, times))
    return numbered


def bits_of(words: Sequence[str]) -> dict[str, int]:
    """word -> an integer with a bit set for each place where the word stands."""
    bits: dict[str, int] = {}
    for place, word in enumerate(words):
        bits[word] = bits.get(word, 0) | 1 << place
    return bits


def common_length(bits: dict[str, int], length: int, other: Sequence[str]) -> int:
    """The length of the longest common subsequence, a word of `other` at a time (Hyyrö, 2004).

    `bits`: those of the words of the one text, `length` of them.

    >>> common_length(bits_of(["a", "b", "c", "d"]), 4, ["b", "x", "d", "a"])
    2
    """
    row = full = (1 << length) - 1
    for word in other:
        mask = bits.get(word)
        if mask is not None:
            hit = row & mask
            row = (row + hit | row - hit) & full
    return length - row.bit_count()


def f_measure(common: int, candidate: int, reference: int) -> float:
    """By the same steps as rouge-score, so that the last bit is the same."""
    if not common:
        return 0.0
    precision, recall = common / candidate, common / reference
    return 2 * precision * recall / (precision + recall)
