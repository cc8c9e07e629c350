"""What checks found: counts, rows and examples, in memory that does not grow with the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

from neuralchat.data.record_files import readable
from neuralchat.data.records import RecordReport

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
# Of each check as many rows are named in the report, and as many on the terminal.
KEPT_FINDINGS = 1000
EXAMPLE_CHARACTERS = 100


class CheckHelp(NamedTuple):
    """What is known of a check beside its function. `advice`: what to do about a finding."""

    name: str
    severity: Severity
    advice: str


class Place(NamedTuple):
    """A row of a file; a file as a whole has row None."""

    file: str
    row: int | None

    def __str__(self) -> str:
        return self.file if self.row is None else f"{self.file} row {self.row}"


def place_of_source(source: str) -> Place:
    """
    >>> place_of_source("my row 1.json row 12")
    Place(file='my row 1.json', row=12)
    """
    name, _, row = source.rpartition(" row ")
    return Place(name, int(row))


@dataclass(slots=True)
class Found:
    """What one check found: how often, and the first rows with what was seen there."""

    count: int = 0
    examples: list[tuple[Place, str]] = field(default_factory=list)


class RowFindings:
    """The findings of all checks, each under its check."""

    def __init__(self) -> None:
        self.found: dict[CheckHelp, Found] = {}

    def add(self, check: CheckHelp, place: Place, seen: str) -> None:
        found = self.found.setdefault(check, Found())
        found.count += 1
        if len(found.examples) < KEPT_FINDINGS:
            found.examples.append((place, readable(seen, EXAMPLE_CHARACTERS)))

    def add_all(self, check: CheckHelp, count: int, first: Iterable[tuple[Place, str]]) -> None:
        """So many findings at once, of which the first are given, at least as many as are kept."""
        if not count:
            return
        found = self.found.setdefault(check, Found())
        found.count += count
        room = KEPT_FINDINGS - len(found.examples)
        found.examples += [(place, readable(seen, EXAMPLE_CHARACTERS)) for place, seen in islice(first, room)]

    def take(self, others: RowFindings) -> None:
        """Those of rows that come after these."""
        for check, found in others.found.items():
            own = self.found.setdefault(check, Found())
            own.count += found.count
            own.examples += found.examples[: KEPT_FINDINGS - len(own.examples)]

    def count(self, severity: Severity) -> int:
        return sum(found.count for check, found in self.found.items() if check.severity == severity)

    def ordered(self) -> list[tuple[CheckHelp, Found]]:
        """Errors first, within a severity the most frequent."""
        return sorted(
            self.found.items(), key=lambda pair: (SEVERITIES.index(pair[0].severity), -pair[1].count, pair[0].name)
        )

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "check": check.name,
                "severity": check.severity,
                "count": found.count,
                "advice": check.advice,
                "rows": [{"file": place.file, "row": place.row, "seen": seen} for place, seen in found.examples],
                "rows_not_listed": found.count - len(found.examples),
            }
            for check, found in self.ordered()
        ]


STRUCTURE_CHECK = CheckHelp("structure", "error", "finetune refuses these rows; correct them, or --on_bad_record skip")
DOUBT = CheckHelp("ambiguous", "warning", "the row was taken for one of two things; say which is meant")


class FoundInReading(RecordReport):
    """A report of reading that keeps every problem as a finding of its row."""

    __slots__ = ("findings",)

    def __init__(self, findings: RowFindings) -> None:
        super().__init__()
        self.findings = findings

    def add(self, name: str, row: int | None, what: str, *, nth: int = 0) -> None:
        self.findings.add(STRUCTURE_CHECK, Place(name, row), what)
        RecordReport.add(self, name, row, what, nth=nth)

    def doubt(self, name: str, row: int, texts: Any) -> None:
        for what in texts:
            self.findings.add(DOUBT, Place(name, row), what)
