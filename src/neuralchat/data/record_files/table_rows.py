"""A table as text, its cells separated by commas, semicolons, tabs or bars -> raw rows."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from neuralchat.data.record_files import rows
from neuralchat.data.record_files.packed import open_unpacked
from neuralchat.data.record_files.rows import BLANK_WORDS, Blank, RawRow, Rows, SyntaxProblem, header_problem, too_large

# Earlier ones win where the beginning of a file speaks for several.
SEPARATORS = (",", ";", "\t", "|")
# Of a table with one column: ASCII's own sign between units, which no text holds, so that a line is a cell.
NO_SEPARATOR = "\x1f"
SAMPLE_CHARACTERS = 1 << 16
SAMPLE_ROWS = 50
# The first line that spreadsheets write and read.
SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)


class RowLines:
    """The lines of a table; `left` is how many characters the row that is being read may still take."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.left = rows.MAX_ROW_BYTES

    def __iter__(self) -> RowLines:
        return self

    def __next__(self) -> str:
        line = self.stream.readline(self.left + 1)
        if not line:
            raise StopIteration
        self.left -= len(line)
        if self.left < 0:
            raise csv.Error(f"the row {too_large()}; often a quote is not closed")
        return line


class TableRows:
    """The rows of a table as lists of cells; a cell may be as large as a row.

    The csv module has one limit for all readers of the process, so it is raised only while a row is read.
    """

    def __init__(self, lines: RowLines, separator: str, *, spaced: bool = False) -> None:
        self.lines = lines
        # A quote after a space begins a quoted cell, as the writers of such tables mean it.
        self.reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=spaced)

    def __iter__(self) -> TableRows:
        return self

    def __next__(self) -> list[str]:
        self.lines.left = rows.MAX_ROW_BYTES
        limit = csv.field_size_limit(rows.MAX_ROW_BYTES)
        try:
            return next(self.reader)
        finally:
            csv.field_size_limit(limit)


def open_text(path: Path) -> TextIO:
    return io.TextIOWrapper(open_unpacked(path), encoding="utf-8-sig", newline="")


def read_table(path: Path, *, separator: str | None = None) -> Rows:
    """`separator`: None to find it out."""
    with open_text(path) as stream:
        sample = stream.read(SAMPLE_CHARACTERS)
        whole = not stream.read(1)
    said = SEPARATOR_LINE.match(sample)
    skipped = int(said is not None)
    if said:
        separator, sample = said[1], sample[said.end() :]
    with open_text(path) as stream:
        for _ in range(skipped):
            stream.readline()
        separator = separator or separator_of(sample, whole=whole)
        # Seen in the header, where no cell holds a text.
        header = sample.partition("\n")[0]
        spaced = f'{separator} "' in header or 0 < header.count(separator) == header.count(f"{separator} ")
        yield from rows_of_table(stream, separator, skipped, spaced=spaced)


def rows_of_table(stream: TextIO, separator: str, skipped: int, *, spaced: bool = False) -> Rows:
    """`skipped` lines stand before the header. `spaced`: a space stands behind each separator, for the eye."""
    number = 0
    table = TableRows(RowLines(stream), separator, spaced=spaced)
    try:
        # Spaces are put after separators for the eye.
        names = [name.strip() for name in next(table, [])]
        if problem := header_problem(names):
            yield SyntaxProblem(None, problem, True)
            return
        for cells in table:
            if not cells:
                continue
            number += 1
            extra = len(cells) - len(names)
            row = dict(zip(names, [*map(cell_of, cells), *[None] * -extra], strict=False))
            yield RawRow(number, row, (f"has {extra} more cell(s) than the header",) if extra > 0 else ())
    except csv.Error as error:
        line = table.reader.line_num + skipped
        # The module's words would show the sign that is not there.
        alone = separator == NO_SEPARATOR and NO_SEPARATOR in str(error)
        what = "text after the closing quote of the only column" if alone else str(error)
        yield SyntaxProblem(number + 1, f"is not CSV (line {line}): {what}", True)


def cell_of(text: str) -> str:
    """A cell that holds such a word may stand empty, and must not be learned as an answer."""
    return Blank(text) if text.strip() in BLANK_WORDS else text


def separator_of(sample: str, *, whole: bool) -> str:
    r"""What separates the cells of a table that begins with `sample`; none where the header names one column.

    `whole`: the sample is the whole table. Quoted cells are read as such, so what stands in them does not count.

    >>> separator_of('question;answer\n"One, two, three?";Four, five\n', whole=True)
    ';'
    >>> separator_of('"a;b",c\nx;y,z\n', whole=True)
    ','
    >>> separator_of("text\nOne, two; three\n", whole=True) == NO_SEPARATOR
    True
    """
    best, most_alike = NO_SEPARATOR, -1.0
    for separator in SEPARATORS:
        cells = list(islice(sample_rows(sample, separator), SAMPLE_ROWS))
        # The last row may be cut.
        header, *others = cells if whole or len(cells) < 2 else cells[:-1]
        alike = sum(len(row) == len(header) for row in others) / len(others) if others else 1.0
        if len(header) > 1 and alike > most_alike:
            best, most_alike = separator, alike
    return best


def sample_rows(sample: str, separator: str) -> Iterator[list[str]]:
    """Rows up to the first that cannot be read; at least an empty header."""
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, strict=True)
    found = False
    try:
        for row in reader:
            if row:
                found = True
                yield row
    except csv.Error:
        pass
    if not found:
        yield []
