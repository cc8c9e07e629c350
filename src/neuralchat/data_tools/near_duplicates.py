"""What nearly the same wording is: by MinHash, pairs of words that two records have in common."""

from __future__ import annotations

import re
from itertools import pairwise

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


def word_pairs(text: str) -> list[str]:
    """
    >>> sorted(word_pairs("A man, a plan"))
    ['a man', 'a plan', 'man a']
    """
    words = WORD_OF_PAIR.findall(text.casefold())[:WORDS_LOOKED_AT]
    return list({f"{first} {second}" for first, second in pairwise(words)})
