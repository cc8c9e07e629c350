"""What defects look like in an answer beside its question: each function takes a record's texts.

They are called for each record: what is cheap comes first.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping

from neuralchat.data_tools.checking import patterns
from neuralchat.data_tools.checking.in_text import around
from neuralchat.data_tools.checking.record_text import RecordText, without_case

# Longer answers are rare in any set that a small model learns from, and mostly something that was pasted.
LONG_CHARACTERS = 40_000
# An answer of so few words that says no more than its question asks.
FEW_REPEATED_WORDS = 4
CUT_FROM_WORDS = 12
LETTERS_LOOKED_AT = 400
FOREIGN_SHARE = 0.3
NO_LETTERS = bytes(byte for byte in range(128) if not chr(byte).isalpha())
MENTIONS_LANGUAGE = re.compile(
    r"\b(?:translat|language|spanish|french|german|chinese|japanese|korean|russian|arabic|hindi|greek|hebrew|thai|latin"
    r"|script|alphabet|word for)",
    re.I,
)
# Words that texts in one language have and texts in English hardly, not even in names: so many of them tell it.
WORDS_OF_LANGUAGE: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "English": "the and of to that with this are for it you have what how",
        "German": "und ist nicht ein eine für auf sich wird sind oder wie",
        "French": "dans une qui avec vous cette sont nous aux très leur ces",
        "Spanish": "una para por más pero muy está qué también sus esta cómo",
        "Italian": "che è sono della gli nel questo più anche degli delle perché",
        "Portuguese": "uma não são para pelo mais está você também seu isso pela",
        "Dutch": "het een niet voor zijn worden ook naar wordt deze",
    }.items()
}
TELLING_WORDS = frozenset().union(*WORDS_OF_LANGUAGE.values())
WORD_MARKS = string.punctuation + "¿¡\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb\u2026"
LANGUAGE_WORDS = 100
FEWEST_WORDS_ASKED, FEWEST_WORDS_ANSWERED = 2, 4
NAMES_LANGUAGE = re.compile(
    r"translat|language|english|spanish|french|german|italian|portuguese|dutch|latin|bilingual|word|phrase|lyrics|idiom"
    r"|deutsch|englisch|fran[çc]ais|anglais|español|inglés|italiano|inglese|português|nederlands|engels|übersetz"
    r"|tradu[ctiz]|vertaal",
    re.I,
)
SENTENCE_ENDS = " .!?" + "".join(
    map(chr, (9, 10, 11, 12, 13, 28, 29, 30, 31, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)))
)
SENTENCE_ENDS += "\u2028\u2029\u202f\u205f\u3000"
# Each is one that ENDS_WELL has.
CLOSING_SIGNS = frozenset(".!?:;)]}>\"'*`_|=%" + string.digits)
LOOP_LINES, LOOP_LINE_CHARACTERS = 6, 20
TAIL = 24
LOOP_CHARACTERS = 220
LOOP_WORDS, LOOP_TAIL, LOOP_DIFFERENT, LOOP_LOOKED_AT = 30, 60, 25, 120
SYMBOLS_ASKED_FOR = re.compile(r"emoji|emoticon|symbol|sign|operator|punctuation|character|mark|ascii", re.I)
HAS_WORD = re.compile(r"[^\W_]")


def refused_answer(text: RecordText) -> str | None:
    for answer in text.answers:
        if patterns.REFUSES.match(answer):
            return answer[:80]
    return None


def speaker(text: RecordText) -> str | None:
    return None if text.is_plain_text else around(patterns.SPEAKER.search(text.answer))


def repeats_question(text: RecordText) -> str | None:
    # Of nearly all records the two end otherwise.
    if not end_alike(text.last_answer, text.last_asked):
        return None
    answer, asked = without_case(text.last_answer).strip(" .!?"), without_case(text.last_asked).strip(" .!?")
    if len(answer.split()) < FEW_REPEATED_WORDS or not asked:
        return None
    same = answer == asked or (asked.endswith(f" {answer}") and len(answer) > len(asked) // 2)
    return text.last_answer[:80] if same else None


def end_alike(text: str, other: str) -> bool:
    """Whether one may end with the other, whatever their case, spacing and the marks at their ends."""
    text, other = text.rstrip(SENTENCE_ENDS)[-TAIL:], other.rstrip(SENTENCE_ENDS)[-TAIL:]
    if text[-1:].casefold()[-1:] != other[-1:].casefold()[-1:]:
        return False
    text, other = " ".join(text.casefold().split()), " ".join(other.casefold().split())
    compared = min(len(text), len(other))
    return text[-compared:] == other[-compared:]


def says_same_again(text: RecordText) -> str | None:
    answer = text.answer
    # So many words, and lines, take more characters.
    if len(answer) < 2 * LOOP_WORDS - 1:
        return None
    lines = answer.splitlines()
    if len(lines) >= LOOP_LINES:
        long = [line for line in map(str.strip, lines) if len(line) > LOOP_LINE_CHARACTERS]
        if len(long) >= LOOP_LINES and len(set(long)) <= len(long) // 3:
            return long[0][:80]
    # A loop shows at the end, where a generator did not stop. Of most answers few words tell that they do not loop.
    if len(set(answer[-LOOP_CHARACTERS:].split()[1:][-LOOP_TAIL:])) >= LOOP_DIFFERENT:
        return None
    last = answer.rsplit(None, LOOP_TAIL)[-LOOP_TAIL:]
    if len(last) < LOOP_WORDS or len(set(last)) >= LOOP_DIFFERENT:
        return None
    return around(patterns.SAYS_SAME_AGAIN.search(" ".join(answer.split()[-LOOP_LOOKED_AT:])))


def cut_ending(text: RecordText) -> str | None:
    answer = text.last_answer
    tail = answer[-60:]
    if tail.rstrip()[-1:] in CLOSING_SIGNS and "```" not in answer:
        return None
    if len(answer.split(None, CUT_FROM_WORDS)) < CUT_FROM_WORDS or text.is_plain_text:
        return None
    if answer.count("```") % 2 or patterns.OPEN_END.search(tail):
        return tail
    # A page that was begun and not ended.
    if answer.count("<html") > answer.count("</html>"):
        return tail
    # Lists, verses and code end as they like; what ends within a long line of prose was cut.
    last_line = answer.rstrip().rpartition("\n")[2]
    prose = ". " in last_line and len(last_line.split()) > CUT_FROM_WORDS
    return tail if prose and not patterns.ENDS_WELL.search(tail) and not patterns.SIGNED.search(tail) else None


def other_script(text: RecordText) -> str | None:
    """An answer mostly in letters of a script that its question has none of."""
    if text.answer.isascii() or not text.asked:
        return None
    head = text.answer[:LETTERS_LOOKED_AT]
    latin = head.encode("ascii", "ignore")
    asked_in_latin = text.prompt[:1].isascii() and text.prompt[:1].isalpha()
    if asked_in_latin and len(head) - len(latin) <= FOREIGN_SHARE * len(latin.translate(None, NO_LETTERS)):
        return None
    letters = {c: n for c, n in Counter(head).items() if c.isalpha()}
    scripts = {script_of(c) for c in set(text.prompt[:LETTERS_LOOKED_AT]) if c.isalpha()}
    foreign = sum(n for c, n in letters.items() if script_of(c) not in scripts)
    if not letters or foreign <= FOREIGN_SHARE * sum(letters.values()) or MENTIONS_LANGUAGE.search(text.prompt):
        return None
    return text.answer[:60]


def script_of(letter: str) -> str:
    """
    >>> script_of("a"), script_of("я")
    ('LATIN', 'CYRILLIC')
    """
    return "LATIN" if letter.isascii() else unicodedata.name(letter, "NONE").partition(" ")[0]


def other_language(text: RecordText) -> str | None:
    """An answer in another language than its question, of those that WORDS_OF_LANGUAGE tells apart."""
    if not text.last_asked:
        return None
    asked = language_of(text.last_asked, FEWEST_WORDS_ASKED)
    answered = language_of(text.last_answer, FEWEST_WORDS_ANSWERED) if asked is not None else None
    if answered in (None, asked) or NAMES_LANGUAGE.search(text.prompt):
        return None
    return f"asked in {asked}, answered in {answered}: {text.last_answer[:60]}"


def language_of(text: str, fewest: int) -> str | None:
    """The language that at least `fewest` of its words tell, and no other half as many.

    >>> language_of("Welche Farbe hat das Gras, und ist es nass?", 2), language_of("What is the colour of grass?", 2)
    ('German', 'English')
    """
    words = {word.strip(WORD_MARKS) for word in text.lower().split(None, LANGUAGE_WORDS)[:LANGUAGE_WORDS]}
    telling = words & TELLING_WORDS
    if len(telling) < fewest:
        return None
    found = sorted(((len(telling & own), name) for name, own in WORDS_OF_LANGUAGE.items()), reverse=True)
    (most, name), (second, _) = found[:2]
    return name if most >= fewest and second * 2 <= most else None


def missing_input(text: RecordText) -> str | None:
    """A question about a text that is given nowhere."""
    match = patterns.ABOUT_INPUT.search(text.asked) if text.is_single and not text.context else None
    if match and " given " in match[0] and patterns.ASKS_FOR_PROGRAM.search(text.asked):
        return None
    return around(match)


def no_words(text: RecordText) -> str | None:
    answer = text.last_answer
    if answer[:1].isalnum() or HAS_WORD.search(answer) or SYMBOLS_ASKED_FOR.search(text.prompt):
        return None
    return answer[:80]


def very_long(text: RecordText) -> str | None:
    longest = max(len(text.answer), len(text.prompt))
    return f"{longest:,} characters" if longest > LONG_CHARACTERS else None
