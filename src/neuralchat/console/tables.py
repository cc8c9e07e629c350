"""Tables and pages of them: `str` is the plain text; a terminal gets them drawn (drawing.py)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

# Names of figures are filled up to this many characters in plain text.
NAME_WIDTH = 13


@dataclass(frozen=True)
class Table:
    """Columns under a header. `marked`: rows that stand out on a terminal. `indent`: before each plain line.

    >>> print(Table(("rank", "host"), (("0", "node0"), ("1", "b"))))
    rank  host
    0     node0
    1     b
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Collection[int] = ()
    indent: str = ""

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            (self.indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))).rstrip()
            for line in lines
        )


@dataclass(frozen=True)
class Figures:
    """Names and values."""

    rows: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        return "\n".join(f"{name:{NAME_WIDTH}}  {value}" for name, value in self.rows)


@dataclass(frozen=True)
class Pointers(Figures):
    """Names and values to be copied from the terminal (a path, a command): never framed, never wrapped."""


@dataclass(frozen=True)
class Answers:
    """Questions with the answers before and after training."""

    samples: Sequence[tuple[str, str, str]]

    def __str__(self) -> str:
        return "\n".join(
            f"\nQ  {question}\n   before  {before}\n   after   {after}" for question, before, after in self.samples
        )


@dataclass(frozen=True)
class Plan:
    """What is going to happen: two columns on a terminal, elsewhere a line for each value, without its name."""

    rows: Mapping[str, str]

    def __str__(self) -> str:
        return "\n".join(self.rows.values())

    def columns(self) -> list[tuple[str, str]]:
        """A value that begins with its name ("forecast: 18 steps") is shown without it."""
        return [(name, value.removeprefix(f"{name}: ")) for name, value in self.rows.items()]


@dataclass(frozen=True)
class MarkedText:
    """Pieces of text, each with what it is: "learned", "compared" or nothing, and behind that "special" or nothing;
    or the "title" of what follows.
    """

    pieces: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        """What is learned stands in angle quotes.

        >>> print(MarkedText([("Name a fruit. ", ""), ("An apple.", "learned"), ("</s>", "learned special")]))
        Name a fruit. \u00abAn apple.</s>\u00bb
        """
        runs = groupby(self.pieces, key=lambda piece: "learned" in piece[1])
        texts = ((is_learned, "".join(text for text, _ in run)) for is_learned, run in runs)
        return "".join(f"\u00ab{text}\u00bb" if is_learned else text for is_learned, text in texts)


Part = str | Table | Figures | Answers | Plan | MarkedText


@dataclass(frozen=True)
class Page:
    """Text and tables one below the other."""

    parts: Sequence[Part]

    def __str__(self) -> str:
        return "\n".join(map(str, self.parts))


def results_table(
    samples: Sequence[tuple[str, str, str]], figures: Sequence[tuple[str, str]], pointers: Sequence[tuple[str, str]]
) -> Page:
    """The results of a run.

    `samples`: (question, answer before, answer after), a line each. `figures`: (name, value) such as
    ("training loss", "1.2345 (mean over 18 steps)"). `pointers`: where to go on, ("report", "runs/a/report.html").
    """
    parts: list[Part] = [Answers(samples)] if samples else []
    parts.append("")
    if figures:
        parts.append(Figures(figures))
    if pointers:
        parts.append(Pointers(pointers))
    return Page(parts)
