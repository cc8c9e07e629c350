"""What reading records found: how many were good, and every problem once with the rows that have it."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from neuralchat.data.record_files import readable
from neuralchat.errors import DataError, problem_list

# What is kept of the problems and field names of a file, so that a file of bad rows takes no memory.
KEPT_PROBLEMS = 100
KEPT_RANGES = 8
KEPT_FIELDS = 50
EXAMPLE_COLUMNS = ("instruction=QUESTION_COLUMN", "output=ANSWER_COLUMN")


@dataclass(slots=True)
class Problem:
    """One problem and the rows of a file that have it; a file as a whole has none."""

    name: str
    what: str
    count: int = 0
    # First and last row of each run of rows.
    ranges: list[list[int]] = field(default_factory=list)
    # Rows say it with other values.
    varies: bool = False

    def add(self, row: int | None, what: str) -> None:
        self.count += 1
        self.varies |= what != self.what
        if row is None:
            return
        if self.ranges and self.ranges[-1][1] == row - 1:
            self.ranges[-1][1] = row
        elif len(self.ranges) <= KEPT_RANGES:
            self.ranges.append([row, row])

    def told(self) -> str:
        if not self.ranges:
            return f"{self.name}: {self.what}"
        if self.count == 1:
            return f"{self.name} row {self.ranges[0][0]}: {self.what}"
        shown = [str(first) if first == last else f"{first}-{last}" for first, last in self.ranges[:KEPT_RANGES]]
        more = ", ..." if len(self.ranges) > KEPT_RANGES else ""
        first = ", the first" if self.varies else ""
        return f"{self.name} rows {', '.join(shown)}{more} ({self.count} rows){first}: {self.what}"


@dataclass(slots=True)
class RecordReport:
    """What reading found. Of the kinds of problems the first are listed; `unlisted` counts those after them.

    `kinds`: the kind of the records of each file.
    """

    good: int = 0
    bad_rows: int = 0
    fatal: bool = False
    found: dict[tuple[str, str, int], Problem] = field(default_factory=dict)
    unlisted: int = 0
    ignored_fields: set[str] = field(default_factory=set)
    # What was taken for one of two things, with its rows.
    doubts: dict[tuple[str, str], Problem] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    # Whether the template refused a good row.
    refused: bool = False
    # Whether a row had none of the fields that records have.
    unrecognised: bool = False
    # Columns of such a row that seem to hold what a record has, as --columns takes them.
    columns_to_name: tuple[str, ...] = ()

    @property
    def problems(self) -> list[str]:
        """Each problem with its rows, in the order in which they came up."""
        return [problem.told() for problem in self.found.values()]

    def add_row(self, name: str, row: int, problems: Iterable[str]) -> None:
        """All problems of a row of a file (or data set)."""
        alike: Counter[str] = Counter()
        for what in problems:
            self.add(name, row, what, nth=alike[likeness(what)])
            alike[likeness(what)] += 1

    def add(self, name: str, row: int | None, what: str, *, nth: int = 0) -> None:
        """Problems of several rows that differ in values only are one; not so those of one row, of which this is the
        `nth`.
        """
        key = (name, likeness(what), -1 if row is None else nth)
        problem = self.found.get(key)
        if problem is None:
            if len(self.found) == KEPT_PROBLEMS:
                self.unlisted += 1
                return
            problem = self.found[key] = Problem(name, what)
        problem.add(row, what)

    def take(self, others: RecordReport) -> None:
        """What was found in rows after these, but for the listed problems and doubts, which name rows."""
        self.good += others.good
        self.bad_rows += others.bad_rows
        self.fatal |= others.fatal
        self.refused |= others.refused
        self.unrecognised |= others.unrecognised
        self.columns_to_name = self.columns_to_name or others.columns_to_name
        self.ignore(others.ignored_fields)
        for name, kind in others.kinds.items():
            self.kinds.setdefault(name, kind)

    def refuse(self, source: str, what: str) -> None:
        """A row that was read as good, named as its record is, that the template does not write."""
        name, _, row = source.rpartition(" row ")
        self.add(name, int(row), what)
        self.good -= 1
        self.bad_rows += 1
        self.refused = True

    def ignore(self, names: Iterable[str]) -> None:
        for name in names:
            if len(self.ignored_fields) < KEPT_FIELDS:
                self.ignored_fields.add(name)

    def doubt(self, name: str, row: int, texts: Iterable[str]) -> None:
        """What a good record of a file leaves in doubt."""
        for what in texts:
            if (name, what) in self.doubts or len(self.doubts) < KEPT_PROBLEMS:
                self.doubts.setdefault((name, what), Problem(name, what)).add(row, what)

    def settle(self, on_bad_record: str) -> str | None:
        """Raise DataError if the problems forbid going on, else return a notice (or None).

        `on_bad_record` is "fail" or "skip"; a file that cannot be read to its end always fails.
        """
        if self.found and (self.fatal or on_bad_record != "skip"):
            count = sum(problem.count for problem in self.found.values()) + self.unlisted
            raise DataError(self.listed(f"{count} problem(s) in the records:") + self.advice())
        if not self.good:
            raise DataError(self.listed("no usable record is left; all were bad:") + self.advice())
        if self.found:
            return self.listed(f"skipped {self.bad_rows} bad record(s), kept {self.good}:")
        return None

    def advice(self) -> str:
        """What to do, only what helps: nothing can be left out of a file that ends too early, or of bad rows alone."""
        lines = [self.column_advice()] if self.unrecognised else []
        if self.refused:
            lines.append("What one template refuses another may write: --template alpaca, or --chat_template FILE.")
        if self.good and not self.fatal:
            lines.append("Correct these rows, or leave them out with --on_bad_record skip.")
        return "".join(f"\n{line}" for line in lines)

    def column_advice(self) -> str:
        """What to say of rows without the fields of records."""
        columns = ",".join(self.columns_to_name or EXAMPLE_COLUMNS)
        return (
            f"If other columns hold the texts, name them: --columns {shlex.quote(columns)} "
            "(docs/data.md lists the fields that can stand on the left)."
        )

    def listed(self, title: str) -> str:
        return problem_list(title, self.problems, unlisted=self.unlisted)


def likeness(what: str) -> str:
    """What problems that differ in values only have in common.

    >>> likeness("field 'output' must be text, found int 5") == likeness("field 'output' must be text, found null")
    True
    >>> likeness("is not JSON at line 2, column 7: Expecting value")
    'is not JSON at line 0, column 0: Expecting value'
    """
    return re.sub(r"\d+", "0", re.split(r"[,;:] found ", readable(what, 400))[0])
