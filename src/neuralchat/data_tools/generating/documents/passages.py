"""Sections of documents -> passages short enough to ask about, and where a quote stands in one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuralchat.data_tools.generating.documents.reading import Section, document_files, document_sections

# Words: enough for some facts, few enough that a small teacher keeps them apart.
PASSAGE_WORDS = 250
FEWEST_PASSAGE_WORDS = 8
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# Shorter quotes stand anywhere.
FEWEST_QUOTE_CHARACTERS = 12
TYPOGRAPHIC = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": "-",
        "\u2212": "-",
        "\u00ad": "",
    }
)


@dataclass(frozen=True)
class Passage:
    """`document`: its file, as named under --documents. `place`: headings or page, and which paragraphs, from 1."""

    document: str
    place: str
    text: str


def passages_of(place: Path) -> tuple[list[Passage], list[str]]:
    """(the passages of all documents in order, the names of files that are no documents). Raises DataError."""
    known, others = document_files(place)
    root = place if place.is_dir() else place.parent
    found: list[Passage] = []
    for path, sections in document_sections(known).items():
        found += joined_sections(str(path.relative_to(root)), sections)
    return found, [str(path.relative_to(root)) for path in others]


def joined_sections(document: str, sections: Sequence[Section]) -> Iterator[Passage]:
    """Neighbouring paragraphs under one heading, as long as they are short; what is too long by itself is cut."""
    held: list[str] = []
    place, first = "", 1
    for number, section in enumerate(sections, start=1):
        for text in paragraph_pieces(" ".join(section.text.split())):
            too_long = sum(len(piece.split()) for piece in held) + len(text.split()) > PASSAGE_WORDS
            if held and (too_long or section.place != place):
                yield from passage_of(document, place, first, number - 1, held)
                held = []
            if not held:
                place, first = section.place, number
            held.append(text)
    yield from passage_of(document, place, first, len(sections), held)


def passage_of(document: str, place: str, first: int, last: int, held: Sequence[str]) -> Iterator[Passage]:
    text = "\n".join(held)
    if len(text.split()) >= FEWEST_PASSAGE_WORDS or (not text.isascii() and len(text) >= 4 * FEWEST_PASSAGE_WORDS):
        last = max(first, last)
        where = f"paragraph {first}" if first == last else f"paragraphs {first}-{last}"
        yield Passage(document, f"{place}, {where}" if place else where, text)


def paragraph_pieces(text: str) -> Iterator[str]:
    """A paragraph by its sentences, as many as a passage takes."""
    if len(text.split()) <= PASSAGE_WORDS:
        if text:
            yield text
        return
    held: list[str] = []
    count = 0
    for sentence in SENTENCE_END.split(text):
        words = sentence.split()
        # A sentence without an end is cut as well.
        for start in range(0, len(words), PASSAGE_WORDS):
            part = words[start : start + PASSAGE_WORDS]
            if held and count + len(part) > PASSAGE_WORDS:
                yield " ".join(held)
                held, count = [], 0
            held.append(" ".join(part))
            count += len(part)
    if held:
        yield " ".join(held)


def quote_place(quote: str, passage: str) -> tuple[int, int] | None:
    """Where a quote stands in a passage, as characters; spaces, case and typographic marks do not count.

    >>> quote_place("the \\u201cCPU\\u201d  was hot.", 'Then the "CPU" was hot. It stopped.')
    (5, 23)
    >>> quote_place("The CPU was cold.", "Then the CPU was hot.")
    """
    wanted, _ = plain_characters(quote.strip().strip("."))
    if len(wanted) < FEWEST_QUOTE_CHARACTERS:
        return None
    given, places = plain_characters(passage)
    at = given.find(wanted)
    if at < 0:
        return None
    end = places[at + len(wanted) - 1] + 1
    return places[at], end + (passage[end : end + 1] == ".")


def plain_characters(text: str) -> tuple[str, list[int]]:
    """A text without spaces and case, and where each of its characters stands."""
    characters, places = [], []
    for place, character in enumerate(text):
        for plain in unicodedata.normalize("NFKC", character).translate(TYPOGRAPHIC).casefold():
            if not plain.isspace():
                characters.append(plain)
                places.append(place)
    return "".join(characters), places
