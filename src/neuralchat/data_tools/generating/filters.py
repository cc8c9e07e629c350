"""Why a task, an answer or a record is not taken: a row for each reason. The first that holds is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from neuralchat.data.records import Record, Turn
from neuralchat.data_tools.checking.patterns import AI_DISCLAIMER
from neuralchat.data_tools.checking.record_checks import RECORD_CHECKS
from neuralchat.data_tools.checking.record_text import record_text
from neuralchat.data_tools.generating.languages import language_problem

FEWEST_WORDS, MOST_WORDS = 3, 150
MOST_ANSWER_CHARACTERS = 20_000
MOST_LABEL_WORDS = 12
LETTER_SHARE = 0.5
# A text model can do none of these. Words such as "graph", "map" and "file" alone are the domain's own.
NEEDS_MORE_THAN_TEXT = re.compile(
    r"\b(?:draw|sketch|paint) (?:a|an|the|me)\b|\bplot (?:a|the) (?:graph|chart|curve|data)\b"
    r"|\b(?:this|the following|attached|given|above|below) (?:image|picture|photo|diagram|video|audio|screenshot|chart"
    r"|recording|spreadsheet|file|link|url|website)\b"
    r"|\b(?:record|play|watch|listen to) (?:a|an|the|this) \w{0,20} ?(?:video|audio|song|recording|clip)\b"
    r"|\b(?:go to|visit|open|click|browse) (?:the |this )?(?:link|url|website|web ?site|page|https?)\b|https?://"
    r"|\b(?:set (?:a|an|the) (?:alarm|reminder|timer)|send (?:this|an|the) e-?mail now)\b",
    re.IGNORECASE,
)
# Of a question about a document that its reader does not see.
POINTS_AT_TEXT = re.compile(
    r"\b(?:the|this|that|given|above) (?:passage|text|document|excerpt|paragraph|section|article|author|sentence"
    r"|context|quote|writer)\b|\baccording to (?:it|this|the above)\b"
    r"|\b(?:mentioned|described|stated|listed) (?:above|here|below)\b",
    re.IGNORECASE,
)
# Checks of `data check` that are warnings there, and reasons to leave out what a teacher made.
REFUSED_WARNINGS = frozenset(
    {
        "ai_disclaimer",
        "refusal",
        "speaker_label",
        "repeats_question",
        "says_same_again",
        "cut_ending",
        "other_script",
        "personal_data",
        "html_entity",
        "very_long",
        # Notes.
        "placeholder",
        "missing_media",
        "link",
    }
)
REMARK = re.compile(
    r"(?:i(?:'m| am) (?:sorry|unable|afraid)|i (?:cannot|can't|can not|won't) |sorry\b"
    r"|(?:sure|certainly|of course)[,!]|here (?:are|is)\b|below (?:are|is)\b|these are\b)",
    re.IGNORECASE,
)
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class FilterSettings:
    """`language`: a key of TOLD_LANGUAGES or "any". `blacklist`: words that no task may have, besides those here."""

    language: str = "en"
    blacklist: tuple[str, ...] = ()


class TaskFilter(NamedTuple):
    """`find`: an instruction -> what speaks against it, or None."""

    name: str
    find: Callable[[str, FilterSettings], str | None]


def out_of_length(text: str, _: FilterSettings) -> str | None:
    words = len(text.split())
    # Of scripts without spaces characters count.
    words = words if text.isascii() or words > 1 else len(text) // 2
    return None if FEWEST_WORDS <= words <= MOST_WORDS else f"{words} words"


def odd_punctuation(text: str, _: FilterSettings) -> str | None:
    if not (text[:1].isalnum() or text[:1] in "\"'\u201c\u00bf("):
        return f"begins with {text[:1]!r}"
    letters = sum(c.isalpha() or c.isspace() for c in text)
    if letters < LETTER_SHARE * len(text):
        return "mostly no letters"
    return f"ends with {text[-1]!r}" if text[-1] in ",;-\u2013\u2014([{/&" else None


def in_blacklist(text: str, settings: FilterSettings) -> str | None:
    if found := NEEDS_MORE_THAN_TEXT.search(text):
        return found[0]
    words = [re.escape(word) for word in settings.blacklist]
    listed = re.search(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", text, re.IGNORECASE) if words else None
    return listed[0] if listed else None


def in_other_language(text: str, settings: FilterSettings) -> str | None:
    return language_problem(text, settings.language)


def teacher_speaks(text: str, _: FilterSettings) -> str | None:
    """What a teacher says before its list, or instead of one."""
    found = REMARK.match(text) or AI_DISCLAIMER.search(text)
    return found[0] if found else None


TASK_FILTERS = (
    TaskFilter("length", out_of_length),
    TaskFilter("punctuation", odd_punctuation),
    TaskFilter("remark", teacher_speaks),
    TaskFilter("blacklist", in_blacklist),
    TaskFilter("language", in_other_language),
)


class Refusal(NamedTuple):
    """`reason`: a name that is counted; `seen`: what it was seen in."""

    reason: str
    seen: str


def task_refusal(instruction: str, settings: FilterSettings) -> Refusal | None:
    if not instruction.strip():
        return Refusal("length", "0 words")
    for each in TASK_FILTERS:
        if seen := each.find(instruction, settings):
            return Refusal(each.name, f"{seen}: {instruction}")
    return None


def record_refusal(turns: Sequence[Turn], settings: FilterSettings) -> Refusal | None:
    """Of a whole record: what `data check` finds in it, and the language of what is said."""
    for turn in turns:
        if not turn.content.strip():
            return Refusal("empty", f"a turn of {turn.role} says nothing")
        if seen := language_problem(turn.content, settings.language):
            return Refusal("language", f"{seen}: {turn.content}")
    if len(turns[-1].content) > MOST_ANSWER_CHARACTERS:
        return Refusal("length", f"an answer of {len(turns[-1].content):,} characters")
    text = record_text(Record(tuple(turns), "generated row 1", "messages"))
    for check in RECORD_CHECKS:
        if check.about.severity == "error" or check.about.name in REFUSED_WARNINGS:
            seen = check.find(text)
            if seen is not None:
                return Refusal(check.about.name, seen)
    return None


def label_refusal(label: str, material: str) -> Refusal | None:
    """Of an example of a classification."""
    if len(label.split()) > MOST_LABEL_WORDS:
        return Refusal("no_label", label)
    return None if material else Refusal("no_input", f"nothing to classify as {label}")


def unfounded_number(answer: str, passage: str) -> str | None:
    """A number of the answer that the passage does not have.

    >>> unfounded_number("It took 12 years.", "From 1990 on it took 12 years.")
    >>> unfounded_number("In 1991.", "In 1990.")
    '1991'
    """
    known = {plain_number(number) for number in FIGURE.findall(passage)}
    return next((number for number in FIGURE.findall(answer) if plain_number(number) not in known), None)


def plain_number(number: str) -> str:
    return number.replace(",", "")
