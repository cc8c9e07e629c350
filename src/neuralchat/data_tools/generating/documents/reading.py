"""Files -> their text in sections, each with where it stands: a row of a table for each ending."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from neuralchat.errors import DataError, problem_list
from neuralchat.files import read_file

MOST_BYTES = 64 << 20
MOST_FILES = 10_000
EMPTY_LINE = re.compile(r"\n[ \t]*\n")
HIDDEN_TAGS = {"script", "style", "head", "nav", "footer", "template", "noscript", "svg", "form"}
BLOCK_TAGS = {"p", "div", "li", "tr", "pre", "blockquote", "dt", "dd", "section", "article", "table", "ul", "ol", "br"}
HEADING_TAGS = {f"h{level}" for level in range(1, 7)}


class Section(NamedTuple):
    """A paragraph. `place`: the headings above it, or its page."""

    place: str
    text: str


class UnreadableDocumentError(Exception):
    """Why a file gives no text."""


def text_sections(path: Path) -> Iterator[Section]:
    for text in EMPTY_LINE.split(document_text(path)):
        yield Section("", text)


def markdown_sections(path: Path) -> Iterator[Section]:
    """A paragraph, item or table cell each, under its headings."""
    headings: list[str] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(document_text(path))
    for at, token in enumerate(tokens):
        if token.type == "inline":
            text = "".join(piece_of(child) for child in token.children or ())
            if tokens[at - 1].type == "heading_open":
                level = int(tokens[at - 1].tag[1])
                headings = [*headings[: level - 1], text]
            else:
                yield Section(" > ".join(filter(None, headings)), text)
        elif token.type in ("fence", "code_block"):
            yield Section(" > ".join(filter(None, headings)), token.content)


def piece_of(token: object) -> str:
    kind = getattr(token, "type", "")
    if kind in ("softbreak", "hardbreak"):
        return "\n"
    return getattr(token, "content", "") if kind in ("text", "code_inline") else ""


class PageText(HTMLParser):
    """Collects the sections of a page, without what is not read: scripts, styles, navigation."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: list[Section] = []
        self.headings: list[str] = []
        self.pieces: list[str] = []
        self.hidden: list[str] = []
        self.heading = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        if tag in HIDDEN_TAGS:
            self.hidden.append(tag)
        elif tag in HEADING_TAGS or tag in BLOCK_TAGS:
            self.end_section()
            self.heading = tag if tag in HEADING_TAGS else self.heading
        elif tag in ("td", "th"):
            self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if self.hidden and tag == self.hidden[-1]:
            self.hidden.pop()
        elif tag in HEADING_TAGS or tag in BLOCK_TAGS:
            self.end_section()

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(data)

    def end_section(self) -> None:
        text = " ".join("".join(self.pieces).split())
        self.pieces = []
        if self.heading:
            level = int(self.heading[1])
            self.headings = [*self.headings[: level - 1], text]
            self.heading = ""
        elif text:
            self.sections.append(Section(" > ".join(filter(None, self.headings)), text))


def html_sections(path: Path) -> Iterator[Section]:
    page = PageText()
    page.feed(document_text(path))
    page.close()
    page.end_section()
    yield from page.sections


def pdf_sections(path: Path) -> Iterator[Section]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError:
        raise UnreadableDocumentError(
            "is a PDF, which takes the package pypdf: pip install 'neuralchat[documents]'"
        ) from None
    try:
        for number, page in enumerate(PdfReader(path).pages, start=1):
            for text in EMPTY_LINE.split(page.extract_text()):
                yield Section(f"page {number}", text)
    except (PyPdfError, ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise UnreadableDocumentError(f"cannot be read as PDF: {error}") from error


READERS_OF_DOCUMENTS: dict[str, Callable[[Path], Iterator[Section]]] = {
    ".txt": text_sections,
    ".text": text_sections,
    ".rst": text_sections,
    ".md": markdown_sections,
    ".markdown": markdown_sections,
    ".html": html_sections,
    ".htm": html_sections,
    ".pdf": pdf_sections,
}


def document_text(path: Path) -> str:
    content = read_file(path, MOST_BYTES)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UnreadableDocumentError(f"is not UTF-8 ({error.reason} at byte {error.start})") from error


def document_files(place: Path) -> tuple[list[Path], list[Path]]:
    """(files that can be read, others) under a directory, or the file itself; in the order of their names.

    What begins with a dot is left alone, and links are not followed.
    """
    if not place.exists():
        raise DataError(f"--documents {place} does not exist")
    if place.is_file():
        found = [place]
    else:
        found = sorted(
            path
            for path in place.rglob("*")
            if not any(part.startswith(".") for part in path.relative_to(place).parts)
            and path.is_file()
            and not path.is_symlink()
        )
    if len(found) > MOST_FILES:
        raise DataError(f"--documents {place} holds {len(found):,} files; at most {MOST_FILES:,} are read")
    known = [path for path in found if path.suffix.lower() in READERS_OF_DOCUMENTS]
    if not known:
        raise DataError(
            f"--documents {place} holds no document; it takes {', '.join(READERS_OF_DOCUMENTS)}, found "
            + (", ".join(sorted({path.suffix or path.name for path in found})[:8]) or "no file")
        )
    return known, [path for path in found if path not in set(known)]


def document_sections(paths: list[Path]) -> dict[Path, list[Section]]:
    """Raises DataError with all files that cannot be read."""
    sections, problems = {}, []
    for path in paths:
        try:
            sections[path] = list(READERS_OF_DOCUMENTS[path.suffix.lower()](path))
        except UnreadableDocumentError as error:
            problems.append(f"{path} {error}")
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
    if problems:
        raise DataError(problem_list("these documents cannot be read; mend them or take them away:", problems))
    return sections
