"""`neuralchat data diff`: two versions of a data set -> the records that were added, removed and changed."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from neuralchat.console import note, put, show_page
from neuralchat.console.tables import Page, Table
from neuralchat.data.record_files import readable
from neuralchat.data.records import Record
from neuralchat.data_tools.checking.record_table import question_digest
from neuralchat.data_tools.checking.record_text import record_text
from neuralchat.data_tools.moving.as_kind import with_context_in_text
from neuralchat.data_tools.moving.new_outputs import check_new_files
from neuralchat.data_tools.moving.source_rows import (
    RowReport,
    SourceRows,
    checked_source,
    conversation_digest,
)
from neuralchat.errors import DataError, problem_list
from neuralchat.runs.output_files import ReportKind, json_report, write_reports

EXIT_DIFFERENT = 1
SHOWN_OF_EACH = 5
KEPT_OF_EACH = 1000
TEXT_CHARACTERS = 100
ADDED, REMOVED, CHANGED = "added", "removed", "changed"


class Seen(NamedTuple):
    """A record by what it says, and where it stands: its position among the rows of its side, and its row.

    `words`: the same, with an input that stands behind its instruction, as chat templates write it.
    """

    digest: bytes
    words: bytes
    number: int
    source: str


@dataclass
class Differences:
    """Positions of records: those only in the new file, those only in the old one, and pairs (old, new) that ask the
    same and answer otherwise.
    """

    unchanged: int = 0
    added: list[Seen] = field(default_factory=list)
    removed: list[Seen] = field(default_factory=list)
    changed: list[tuple[Seen, Seen]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        return {ADDED: len(self.added), REMOVED: len(self.removed), CHANGED: len(self.changed)}

    @property
    def ordered_changes(self) -> list[tuple[Seen, Seen]]:
        """Those with other words first."""
        return sorted(self.changed, key=lambda pair: (pair[0].words == pair[1].words, pair[1].number))

    @property
    def input_moved(self) -> int:
        """Of the changed, those that only have their input elsewhere."""
        return sum(old.words == new.words for old, new in self.changed)


def diff_data(options: argparse.Namespace) -> int:
    if options.report:
        check_new_files(
            [("--report", options.report)], (".json",), [options.old, options.new], replaces=ReportKind.JSON
        )
    sides = [SourceRows((name,), tuple(options.columns)) for name in (options.old, options.new)]
    if problems := [problem for side in sides for problem in side.check()]:
        raise DataError(problem_list("the record files cannot be used:", problems))
    old, new = (by_question(checked_source(side)) for side in sides)
    found = compared_records(old, new)
    texts = DifferenceTexts(sides, found)
    show_page(Page(told_differences(options, found, texts)))
    if options.report:
        content = report_of_differences(options, found, texts)
        write_reports([("--report", options.report, lambda: json_report(content))])
        put(f"report: {options.report}")
    return EXIT_DIFFERENT if options.exit_code and any(found.counts.values()) else 0


def by_question(source: SourceRows) -> dict[bytes, list[Seen]]:
    """The records of a file by what they ask, without case and spacing."""
    found: dict[bytes, list[Seen]] = {}
    report = RowReport()
    for number, row in enumerate(source.read(report)):
        question = question_digest(record_text(row.record))
        joined = replace(row.record, turns=tuple(map(with_context_in_text, row.record.turns)))
        seen = Seen(conversation_digest(row.record), conversation_digest(joined), number, row.record.source)
        found.setdefault(question, []).append(seen)
    if not report.good:
        report.settle("fail")
    if report.problems:
        note(report.listed(f"{report.bad_rows:,} bad row(s) are not compared:"))
    return found


def compared_records(old: dict[bytes, list[Seen]], new: dict[bytes, list[Seen]]) -> Differences:
    """Records that say the same are paired first; of those left that ask the same, one of each file is a change."""
    found = Differences()
    for question in {**old, **new}:
        before, after = old.get(question, []), new.get(question, [])
        same = Counter(seen.digest for seen in before) & Counter(seen.digest for seen in after)
        found.unchanged += same.total()
        gone, came = without(before, same), without(after, same)
        found.changed += zip(gone, came, strict=False)
        found.removed += gone[len(came) :]
        found.added += came[len(gone) :]
    for seen in (found.added, found.removed):
        seen.sort(key=lambda each: each.number)
    return found


def without(records: Sequence[Seen], same: Counter[bytes]) -> list[Seen]:
    left, rest = Counter(same), []
    for seen in records:
        if left[seen.digest]:
            left[seen.digest] -= 1
        else:
            rest.append(seen)
    return rest


class DifferenceTexts:
    """The records of the first differences of each kind, read again."""

    def __init__(self, sides: Sequence[SourceRows], found: Differences) -> None:
        changed = found.ordered_changes[:KEPT_OF_EACH]
        wanted_old = [*found.removed[:KEPT_OF_EACH], *(before for before, _ in changed)]
        wanted_new = [*found.added[:KEPT_OF_EACH], *(after for _, after in changed)]
        self.old = dict(records_at(sides[0], {seen.number for seen in wanted_old}))
        self.new = dict(records_at(sides[1], {seen.number for seen in wanted_new}))


def records_at(source: SourceRows, numbers: set[int]) -> Iterator[tuple[int, Record]]:
    for number, row in enumerate(source.again() if numbers else ()):
        if number in numbers:
            yield number, row.record


def told_differences(options: argparse.Namespace, found: Differences, texts: DifferenceTexts) -> list[str | Table]:
    counts = [(name, f"{count:,}") for name, count in found.counts.items()]
    parts: list[str | Table] = [
        f"{options.old} -> {options.new}",
        "",
        Table(("records", "count"), [("unchanged", f"{found.unchanged:,}"), *counts]),
    ]
    for name, seen, held in ((ADDED, found.added, texts.new), (REMOVED, found.removed, texts.old)):
        if seen:
            parts += ["", f"{name}:"]
            parts += [line for each in seen[:SHOWN_OF_EACH] for line in told_record(each, held[each.number])]
            parts += told_rest(len(seen))
    if changed := found.ordered_changes:
        parts += ["", f"{CHANGED}:"]
        for before, after in changed[:SHOWN_OF_EACH]:
            parts += told_change(before, after, texts)
        parts += told_rest(len(changed))
    if moved := found.input_moved:
        parts += ["", f"{moved:,} of the changed only have their input behind the instruction instead of in its field"]
    return parts


def told_rest(count: int) -> list[str]:
    more = count - SHOWN_OF_EACH
    return [f"  ... and {more:,} more"] if more > 0 else []


def told_record(seen: Seen, record: Record) -> list[str]:
    text = record_text(record)
    asked = [f"  {place_told(seen)}: {beginning_shown(text.prompt)}"] if text.prompt else [f"  {place_told(seen)}:"]
    return [*asked, f"    {beginning_shown(text.answer)}"]


def told_change(before: Seen, after: Seen, texts: DifferenceTexts) -> list[str]:
    old_record, new_record = texts.old[before.number], texts.new[after.number]
    old, new = record_text(old_record), record_text(new_record)
    lines = [f"  {place_told(before)} -> {place_told(after)}: {beginning_shown(new.prompt)}"]
    if old.prompt != new.prompt:
        lines += [f"    - {beginning_shown(old.prompt)}", f"    + {beginning_shown(new.prompt)}"]
    if old.answer != new.answer:
        lines += [
            f"    - {from_difference(old.answer, new.answer)}",
            f"    + {from_difference(new.answer, old.answer)}",
        ]
    if (old.prompt, old.answer) == (new.prompt, new.answer):
        lines.append(f"    {hidden_change(old_record, new_record)}")
    return lines


def hidden_change(old: Record, new: Record) -> str:
    """What differs where prompt and answer are the same texts."""
    parts = [
        name
        for name, differ in (
            ("tools", list(old.tools) != list(new.tools)),
            ("facts", old.facts != new.facts),
            ("roles or the order of turns", [turn.role for turn in old.turns] != [turn.role for turn in new.turns]),
        )
        if differ
    ]
    return f"other {', '.join(parts) or 'details of turns (reasoning, calls, what is learned)'}"


def place_told(seen: Seen) -> str:
    return f"row {seen.source.rpartition(' row ')[2]}"


def beginning_shown(text: str) -> str:
    return readable(text.strip(), TEXT_CHARACTERS)


def from_difference(text: str, other: str) -> str:
    """A text from a little before the place where it differs from another."""
    same = next(
        (place for place, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other))
    )
    start = max(0, same - TEXT_CHARACTERS // 3)
    return ("..." if start else "") + readable(text[start:], TEXT_CHARACTERS)


def report_of_differences(options: argparse.Namespace, found: Differences, texts: DifferenceTexts) -> dict[str, Any]:
    def row(seen: Seen) -> int:
        return int(seen.source.rpartition(" row ")[2])

    def alone(seen: Seen, record: Record) -> dict[str, Any]:
        text = record_text(record)
        return {"row": row(seen), "prompt": text.prompt, "answer": text.answer}

    return {
        "old": options.old,
        "new": options.new,
        "counts": {"unchanged": found.unchanged, **found.counts, "input_moved": found.input_moved},
        ADDED: [alone(seen, texts.new[seen.number]) for seen in found.added[:KEPT_OF_EACH]],
        REMOVED: [alone(seen, texts.old[seen.number]) for seen in found.removed[:KEPT_OF_EACH]],
        CHANGED: [
            {
                "old": alone(before, texts.old[before.number]),
                "new": alone(after, texts.new[after.number]),
            }
            for before, after in found.ordered_changes[:KEPT_OF_EACH]
        ],
        "listed_of_each": KEPT_OF_EACH,
    }
