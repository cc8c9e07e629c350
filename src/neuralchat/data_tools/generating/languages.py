"""In which language a text is written, by its commonest words: enough to see that a teacher has left the one wanted."""

from __future__ import annotations

import re
from typing import NamedTuple

ANY = "any"
RUNS_OF_LETTERS = re.compile(r"[^\W\d_]+")
FEWEST_WORDS = 6
# So many common words more of another language than of the one that is wanted.
CLEARLY_MORE = 2
LATIN_SHARE = 0.7


class CommonWords(NamedTuple):
    name: str
    words: frozenset[str]


def common_words(name: str, words: str) -> CommonWords:
    return CommonWords(name, frozenset(words.split()))


# ISO 639-1 code -> words that nearly every text of the language has.
TOLD_LANGUAGES = {
    "en": common_words(
        "English",
        "the of and to in is that it for as with on are be this by or an from at which you your how what why not can "
        "has have was were its their should would when if a does do",
    ),
    "de": common_words(
        "German",
        "der die das und ist von zu mit den dem ein eine einer für auf nicht im des sich als auch es an werden wird "
        "wie sind oder bei aus nach zum zur was warum wenn dass",
    ),
    "fr": common_words(
        "French",
        "le la les de des et un une est en que qui dans pour pas sur du au aux ce cette il elle avec par sont ou plus "
        "comment pourquoi votre vous ne se",
    ),
    "es": common_words(
        "Spanish",
        "el la los las de y un una es en que por para con no se del al lo como más su sus qué cómo son o este esta "
        "entre cuando sobre",
    ),
    "it": common_words(
        "Italian",
        "il lo la gli le di e un una è in che per con non si del della dei al come più sono o questo questa nel "
        "nella tra cosa perché quando",
    ),
    "pt": common_words(
        "Portuguese",
        "o a os as de e um uma é em que por para com não se do da dos das no na como mais são ou este esta ao entre "
        "quando você",
    ),
    "nl": common_words(
        "Dutch",
        "de het een en van is dat te in op voor met zijn niet aan er om ook als bij uit naar wordt worden of hoe wat "
        "waarom deze dit",
    ),
}


def language_problem(text: str, wanted: str) -> str | None:
    """What speaks against the text being in the language `wanted`, a key of TOLD_LANGUAGES or "any"; None for nothing.

    >>> language_problem("Wie lange hält die Batterie, wenn das Gerät nicht benutzt wird?", "en")
    'German'
    >>> language_problem("How long does the battery last?", "en")
    """
    if wanted == ANY:
        return None
    letters = [c for c in text if c.isalpha()]
    if letters and sum(c < "\u0250" for c in letters) < LATIN_SHARE * len(letters):
        return "another script"
    words = [word.lower() for word in RUNS_OF_LETTERS.findall(text)]
    if len(words) < FEWEST_WORDS:
        return None
    counts = {code: sum(word in language.words for word in words) for code, language in TOLD_LANGUAGES.items()}
    most = max(counts, key=lambda code: counts[code])
    return TOLD_LANGUAGES[most].name if counts[most] >= counts[wanted] + CLEARLY_MORE else None
