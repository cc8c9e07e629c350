"""How unlike the accepted tasks are: their verbs and what those are about, as in the figure of Self-Instruct.

No grammar is parsed: the verb is the first word that asks for something, the noun the last word of the phrase after it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

WORD_OF_TASK = re.compile(r"[^\W\d_][\w'-]*")
CLAUSE_END = re.compile(r"[.,;:?!()\n]")


def words_in(text: str) -> frozenset[str]:
    return frozenset(text.split())


BEFORE_VERBS = words_in(
    "please can could would will you i we the a an kindly now then first let's help me us to want need like"
)
# Where a phrase ends.
AFTER_NOUNS = words_in(
    "of for to in on at with by from about that which who when where why how if as between among into over than and or "
    "is are was were do does did should can could would will has have had it its they them this these those so using "
    "without while during after before under per"
)
IN_PHRASE = words_in("a an the me us my your our their some any each every all one two three four five more")
MOST_IN_PHRASE = 4


def verb_and_noun(task: str) -> tuple[str, str]:
    """
    >>> verb_and_noun("Please write me a short letter to a supplier."), verb_and_noun("What is the boiling point?")
    (('write', 'letter'), ('what', ''))
    """
    words = [word.lower() for word in WORD_OF_TASK.findall(CLAUSE_END.split(task.strip(), maxsplit=1)[0])]
    at = next((place for place, word in enumerate(words) if word not in BEFORE_VERBS), None)
    if at is None:
        return "", ""
    noun = ""
    for word in words[at + 1 : at + 3 + MOST_IN_PHRASE]:
        if word in AFTER_NOUNS:
            break
        if word not in IN_PHRASE:
            noun = word
    return words[at], noun


def verbs_and_nouns(tasks: Iterable[str]) -> dict[str, Counter[str]]:
    """verb -> how often each noun comes with it; the commonest verb first."""
    found: dict[str, Counter[str]] = {}
    for task in tasks:
        verb, noun = verb_and_noun(task)
        found.setdefault(verb, Counter())[noun] += 1
    return dict(sorted(found.items(), key=lambda pair: (-pair[1].total(), pair[0])))
