"""Whether an answer states the facts that a right one contains."""

from __future__ import annotations

import re
from collections.abc import Sequence

from neuralchat.data.records import Fact

# Scripts that set no spaces between words, or add endings to them: Thai, kana, Han, Hangul.
UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
WORD = rf"(?:[^\W{UNSPACED}]|-)"
# Where a fact may begin and end: neither is it a piece of a word nor of a number such as 0.8 or 8,000. Compiled once,
# since such ranges take milliseconds.
# And C is a piece of C++ and C#.
BEGINNING, END = re.compile(rf"(?<!{WORD})(?<!\d[.,])"), re.compile(rf"(?!{WORD})(?![.,]\d)(?!\+\+|#)")


def states_facts(answer: str, facts: Sequence[Fact]) -> bool:
    """Whether every fact, or one of its alternatives, stands in the answer as words of its own.

    >>> states_facts("Use --lora_rank; the default is 8.", ["--lora_rank", "8"])
    True
    >>> states_facts("Use --lora_ranks.", ["--lora_rank"])
    False
    >>> states_facts("Eight of them.", [("8", "eight")])
    True
    """
    return all(any(states(folded(answer), folded(text)) for text in alternatives_of(fact)) for fact in facts)


def folded(text: str) -> str:
    """With the typewriter's apostrophe and minus."""
    return text.replace("\u2019", "'").replace("\u2212", "-")


def states(answer: str, text: str) -> bool:
    # Looked for ahead, so that places may overlap.
    places = re.finditer(f"(?=({re.escape(text)}))", answer, re.IGNORECASE)
    return any(BEGINNING.match(answer, place.start()) and END.match(answer, place.end(1)) for place in places)


def alternatives_of(fact: Fact) -> tuple[str, ...]:
    return (fact,) if isinstance(fact, str) else fact
