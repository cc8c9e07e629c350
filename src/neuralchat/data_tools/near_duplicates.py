"""Records of nearly the same wording, by MinHash of their pairs of words."""

from __future__ import annotations

import re
from itertools import pairwise

from rensa import RMinHash, RMinHashDeduplicator

WORD_OF_PAIR = re.compile(r"\w+")
# Of all pairs of words that one of two records has, so many are in both.
THRESHOLD = 0.8
# 128 hashes estimate that share with an error of 0.035.
HASHES = 128
SKETCH_SEED = 42
# Of four hashes each: of pairs just above the threshold three quarters are found, of those above 0.9 all. As many as
# the library chooses by itself find fewer.
BANDS = 32
# Shorter ones are alike by chance.
FEWEST_PAIRS = 6
# A longer text is told apart by its beginning.
WORDS_LOOKED_AT = 2000

Where = tuple[int, int]


class WordingIndex:
    """(file, row) of records by their wording. It is about words, not about meaning.

    >>> index = WordingIndex()
    >>> fox = "The quick brown fox jumps over the lazy dog near the bank of the river"
    >>> index.add(sketch_of(f"{fox} today"), (0, 1))
    >>> index.like(sketch_of(f"{fox}, yes, today"))
    (0, 1)
    >>> index.like(sketch_of("A model learns from its records, and from nothing else that you may have in mind."))
    """

    def __init__(self) -> None:
        self.found = RMinHashDeduplicator(THRESHOLD, HASHES, True, num_bands=BANDS, seed=SKETCH_SEED)

    def add(self, sketch: RMinHash | None, where: Where) -> None:
        if sketch is not None:
            self.found.add(f"{where[0]} {where[1]}", sketch)

    def like(self, sketch: RMinHash | None) -> Where | None:
        """The first of those added that has nearly the same words."""
        if sketch is None or not (keys := self.found.get_duplicates(sketch)):
            return None
        return min(where_of(key) for key in keys)


def where_of(key: str) -> Where:
    file, row = key.split()
    return int(file), int(row)


def sketch_of(text: str) -> RMinHash | None:
    """None for a text too short to be told apart."""
    pairs = word_pairs(text)
    return RMinHash.from_token_sets([pairs], HASHES, SKETCH_SEED)[0] if len(pairs) >= FEWEST_PAIRS else None


def word_pairs(text: str) -> list[str]:
    """
    >>> sorted(word_pairs("A man, a plan"))
    ['a man', 'a plan', 'man a']
    """
    words = WORD_OF_PAIR.findall(text.casefold())[:WORDS_LOOKED_AT]
    return list({f"{first} {second}" for first, second in pairwise(words)})
