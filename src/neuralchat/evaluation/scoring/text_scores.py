"""An answer beside what is expected of it: the same words, the same number, how many words in the same order, rules."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from neuralchat.evaluation.facts import UNSPACED

# Of scripts without spaces each character is a word.
ROUGE_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
# A sign after a word or a number is none: 10-3, pages 3-5.
NUMBER = re.compile(r"(?:(?<![\w.)])[-\u2212+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+\b)?")
# An article, where a word follows; how one number may be written otherwise.
ARTICLE = re.compile(r"(?<![\w'-])(?:an?|the) (?=[^\s\w]*\w)")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)")
PLUS, BARE_POINT = re.compile(r"(?<![\w)+])\+(?=\.?\d)"), re.compile(r"(?<![\w.])\.(?=\d)")
SPACED_PERCENT = re.compile(r"(?<=\d) %")
SYMBOL = re.compile(r"[^\w\s]|_")
# Punctuation that says something: within numbers, a sign, C# and 50%, AT&T and a/b.
SAYING_MARK = re.compile(r"(?<=\d)[^\w\s](?=\d)|(?<![\w)])-(?=\d)|(?<=\w)[#%](?!\w)|(?<=\w)[&@/\\_](?=\w)")
CODE_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)
# A run of as many words that came before is a repetition.
REPEATED_WORDS = 4
# How answers begin that refuse; the typewriter's apostrophe.
REFUSAL = re.compile(
    r"\b(i'?m|i am) (sorry|unable|not able)|\bi (can'?t|cannot|can not|won'?t|will not|do not|don'?t) "
    r"(help|assist|answer|provide|do that|comply|know|have (access|information|enough))|\bas an ai\b",
    re.IGNORECASE,
)
REFUSAL_CHARACTERS = 200


def normalised(text: str) -> str:
    """The words that a text says, whatever the case, the punctuation around them and the spaces between.

    As SQuAD compares answers (Rajpurkar et al., 2016), but nothing is dropped that says something else: signs, points
    and whatever stands within numbers, symbols (C++, $5, <), an article that no word follows (vitamin A). A text of
    punctuation alone is that punctuation.

    >>> normalised(" The  Eiffel Tower! "), normalised("-5."), normalised("3.5"), normalised("C++"), normalised("A")
    ('eiffel tower', '-5', '3.5', 'c++', 'a')
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").split())
    plain = THOUSANDS.sub(lambda found: found[0].replace(",", ""), ARTICLE.sub("", folded))
    plain = SPACED_PERCENT.sub("%", BARE_POINT.sub("0.", PLUS.sub("", plain)))
    return " ".join(SYMBOL.sub(what_it_says, plain).split()) or folded


def what_it_says(found: re.Match[str]) -> str:
    """The character, or nothing where it only divides, quotes or marks what stands beside it."""
    is_mark = found[0] == "`" or unicodedata.category(found[0]).startswith("P")
    return found[0] if not is_mark or SAYING_MARK.match(found.string, found.start()) else ""


def rouge_l(expected: str, answer: str) -> float:
    """F-measure of the longest common subsequence of words, from 0 to 1 (Lin, 2004). A similarity, not a quality.

    >>> rouge_l("The cat sat.", "the cat stood")
    0.6666666666666666
    """
    one, two = ROUGE_WORD.findall(expected.casefold()), ROUGE_WORD.findall(answer.casefold())
    if not one and not two:
        # Symbols alone: there are no words to compare.
        return float(expected.split() == answer.split())
    common = longest_common(one, two)
    return 2 * common / (len(one) + len(two)) if common else 0.0


def longest_common(one: Sequence[str], two: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    reached = [0] * (len(two) + 1)
    for word in one:
        before = 0
        for place, other in enumerate(two, start=1):
            before, reached[place] = (
                reached[place],
                before + 1 if word == other else max(reached[place], reached[place - 1]),
            )
    return reached[-1]


def last_number(text: str) -> float | None:
    """The number that a text ends with, as answers to exercises are read; None where it has none.

    >>> last_number("3 + 4 = 7, so 1,007.50 in all.")
    1007.5
    """
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def ends_with_number(answer: str, number: float) -> bool:
    found = last_number(answer)
    return found is not None and math.isclose(found, number, rel_tol=1e-6, abs_tol=1e-9)


def is_json(answer: str, keys: bool | Sequence[str]) -> bool:
    """Whether the answer is JSON, in a code fence or not; with `keys`, an object that has them."""
    text = answer.strip()
    fenced = CODE_FENCE.match(text)
    try:
        value: Any = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    if isinstance(keys, bool):
        return True
    return isinstance(value, dict) and set(keys) <= value.keys()


def repetition(text: str) -> float:
    """The share of runs of four words that came before, from 0 to 1.

    >>> repetition("so it goes on " * 5) > 0.7, repetition("It says each thing once and then it ends.")
    (True, 0.0)
    """
    words = ROUGE_WORD.findall(text.casefold())
    runs = [tuple(words[i : i + REPEATED_WORDS]) for i in range(len(words) - REPEATED_WORDS + 1)]
    return 1 - len(Counter(runs)) / len(runs) if runs else 0.0


def is_refusal(answer: str) -> bool:
    """By its wording: whether it begins with words that refuse, or say that one does not know."""
    return REFUSAL.search(answer[:REFUSAL_CHARACTERS].replace("\u2019", "'")) is not None
