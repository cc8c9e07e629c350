"""`neuralchat data split`: records -> training, validation and other parts, with nothing alike on two sides."""

from __future__ import annotations

import argparse
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from neuralchat.config.checks import share_problems
from neuralchat.console import note, put, show_page
from neuralchat.console.tables import Page, Table
from neuralchat.data.mixture import shares_of
from neuralchat.data_tools.checking.record_text import record_text
from neuralchat.data_tools.moving.groups import GroupedRecords
from neuralchat.data_tools.moving.new_outputs import check_new_files
from neuralchat.data_tools.moving.row_writers import ROW_ENDINGS
from neuralchat.data_tools.moving.source_rows import (
    RowReport,
    SourceRows,
    checked_source,
    field_text,
    only_kind,
    settle_reading,
)
from neuralchat.data_tools.moving.writing import RowToWrite, write_rows
from neuralchat.errors import ArgumentsError, DataError, problem_list
from neuralchat.runs.output_files import ReportKind, json_report, write_reports

# A part may differ from its share by so much of all records without a word about why.
TOLD_DIFFERENCE = 0.01
STRATA_SHOWN = 20
WITHOUT_FIELD = "(none)"


def split_data(options: argparse.Namespace) -> int:
    shares = named_parts(options.into)
    reports = [("--report", options.report)] if options.report else []
    check_new_files([("--into", name) for name in shares], ROW_ENDINGS, options.files)
    check_new_files(reports, (".json",), options.files, replaces=ReportKind.JSON)
    source = checked_source(SourceRows(tuple(options.files), tuple(options.columns)))
    looked = look_at_rows(source, options)
    parts = parts_of_records(looked, list(shares.values()), options.seed)
    counts = [int((parts == number).sum()) for number in range(len(shares))]
    near = ", or take fewer records for alike: --no_near" if looked.in_groups and not options.no_near else ""
    if empty := [
        f"{name} ({float(share):.1%})" for (name, share), count in zip(shares.items(), counts, strict=True) if not count
    ]:
        raise DataError(
            problem_list("these parts would get no record:", empty)
            + f"\nThere are {len(parts):,} records in {looked.group_count:,} groups that stay whole, the largest "
            f"of {looked.largest:,}. Give these parts larger shares{near}."
        )
    write_rows(list(shares), lambda: rows_of_parts(source, parts), columns=options.columns)
    show_page(Page([split_table(shares, counts, looked), *strata_tables(list(shares), parts, looked)]))
    tell_groups(shares, counts, looked)
    if options.report:
        content = split_report(shares, counts, parts, looked, options)
        write_reports([("--report", options.report, lambda: json_report(content))])
        put(f"report: {options.report}")
    return 0


def named_parts(into: Sequence[str]) -> dict[str, Fraction]:
    """File -> share, as --mix of finetune takes them. Raises ArgumentsError."""
    problems = [problem.replace("--mix ", "--into ") for problem in share_problems(into)]
    names = [pair.rpartition("=")[0] for pair in into]
    problems += [f"--into {name} is named twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if not problems and len(names) < 2:
        problems.append(
            f"--into {into[0]} alone is no split; name two parts or more, such as train.jsonl=0.9 valid.jsonl=0.1"
        )
    if problems:
        raise ArgumentsError(problem_list("the parts cannot be made:", problems))
    return shares_of(into)


@dataclass(frozen=True)
class LookedAt:
    """Of each record its group, the key of its question and its stratum; `strata` names these."""

    groups: np.ndarray
    keys: np.ndarray
    strata_of: np.ndarray
    strata: list[str]
    not_compared: int

    @property
    def group_count(self) -> int:
        return len(np.unique(self.groups))

    @property
    def largest(self) -> int:
        return int(np.unique(self.groups, return_counts=True)[1].max())

    @property
    def in_groups(self) -> int:
        """Records that share their group with another."""
        counts = np.unique(self.groups, return_counts=True)[1]
        return int(counts[counts > 1].sum())


def look_at_rows(source: SourceRows, options: argparse.Namespace) -> LookedAt:
    grouped = GroupedRecords(near=not options.no_near)
    strata: dict[str, int] = {}
    strata_of = array("q")
    seen = {"--stratify_by": False, "--group_by": False}
    report = RowReport()
    for row in source.read(report):
        stratum = field_text(row.value, options.stratify_by) if options.stratify_by else ""
        group = field_text(row.value, options.group_by) if options.group_by else None
        seen["--stratify_by"] |= stratum is not None
        seen["--group_by"] |= group is not None
        strata_of.append(strata.setdefault(WITHOUT_FIELD if stratum is None else stratum, len(strata)))
        grouped.add(record_text(row.record), group)
    settle_reading(report, options.on_bad_record)
    only_kind(report)
    named = {"--stratify_by": options.stratify_by, "--group_by": options.group_by}
    if missing := [f"{flag} {name}: no row has this field" for flag, name in named.items() if name and not seen[flag]]:
        raise ArgumentsError(problem_list("the records cannot be split so:", missing))
    groups, keys = grouped.finish()
    return LookedAt(groups, keys, np.asarray(strata_of, dtype=np.int64), list(strata), grouped.not_compared)


def parts_of_records(looked: LookedAt, shares: Sequence[Fraction], seed: int) -> np.ndarray:
    """The part of each record: a function of what the records hold, the shares and the seed, not of their order.

    Each stratum is split by itself; what a part lacks of its share there, it gets in the next. A group goes to the
    stratum of most of its records. Large groups go first; each to the part that has the least of its share and takes
    it whole, else to the one that lacks most.
    """
    _, first, group_of, sizes = np.unique(looked.groups, return_index=True, return_inverse=True, return_counts=True)
    # A group is known by the least of its keys, which no other group has.
    keys = np.full(len(first), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(keys, group_of, looked.keys.astype(np.uint64))
    strata = stratum_of_groups(group_of, looked)
    drawn = [hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest() for key in keys.tolist()]
    order = sorted(
        range(len(first)), key=lambda group: (looked.strata[strata[group]], -int(sizes[group]), drawn[group])
    )
    weights, whole = integer_weights(shares)
    totals = np.bincount(strata, weights=sizes, minlength=len(looked.strata)).astype(int).tolist()
    lacks = [0] * len(weights)
    parts = np.zeros(len(first), np.int64)
    stratum = -1
    for group in order:
        if strata[group] != stratum:
            stratum = int(strata[group])
            lacks = [lack + weight * totals[stratum] for lack, weight in zip(lacks, weights, strict=True)]
        size = int(sizes[group]) * whole
        fitting = [part for part, lack in enumerate(lacks) if lack >= size]
        if fitting:
            part = max(fitting, key=lambda part: lacks[part] / weights[part])
        else:
            part = max(range(len(lacks)), key=lacks.__getitem__)
        lacks[part] -= size
        parts[group] = part
    return parts[group_of]


def integer_weights(shares: Sequence[Fraction]) -> tuple[list[int], int]:
    """(weights without fractions, their sum)

    >>> integer_weights([Fraction(9, 10), Fraction(1, 10)])
    ([9, 1], 10)
    """
    common = int(np.lcm.reduce([share.denominator for share in shares], dtype=object))
    return [int(share * common) for share in shares], common


def stratum_of_groups(group_of: np.ndarray, looked: LookedAt) -> np.ndarray:
    """Of each group the stratum of most of its records; of several the first by name."""
    ranks = np.argsort(np.argsort(np.asarray(looked.strata, dtype=object)))
    pairs, counts = np.unique(group_of * len(ranks) + ranks[looked.strata_of], return_counts=True)
    groups, names = np.divmod(pairs, len(ranks))
    # By group, then by count; of equal ones the first by name comes last. What comes last stays.
    order = np.lexsort((-names, counts, groups))
    found = np.zeros(int(group_of.max()) + 1, np.int64)
    found[groups[order]] = np.argsort(ranks)[names[order]]
    return found


def rows_of_parts(source: SourceRows, parts: np.ndarray) -> Iterator[RowToWrite]:
    number = -1
    for number, row in enumerate(source.again()):
        if number >= len(parts):
            raise changed_error()
        yield RowToWrite(int(parts[number]), row.value, row.record)
    if number + 1 != len(parts):
        raise changed_error()


def changed_error() -> DataError:
    return DataError("the files were changed while they were read; nothing is written")


def split_table(shares: dict[str, Fraction], counts: Sequence[int], looked: LookedAt) -> Table:
    total = len(looked.groups)
    rows = [
        (name, f"{count:,}", f"{count / total:.1%}", f"{float(share):.1%}")
        for (name, share), count in zip(shares.items(), counts, strict=True)
    ]
    return Table(("part", "records", "share", "wanted"), rows)


def strata_tables(names: Sequence[str], parts: np.ndarray, looked: LookedAt) -> list[str | Table]:
    if len(looked.strata) < 2:
        return []
    counts = strata_counts(len(names), parts, looked)
    shown = sorted(counts, key=lambda stratum: -sum(counts[stratum]))[:STRATA_SHOWN]
    rows = [(stratum[:40], *(f"{count:,}" for count in counts[stratum])) for stratum in shown]
    more = [f"... and {len(counts) - len(shown)} more"] if len(counts) > len(shown) else []
    return ["", Table(("stratum", *names), rows), *more]


def strata_counts(part_count: int, parts: np.ndarray, looked: LookedAt) -> dict[str, list[int]]:
    table = np.zeros((len(looked.strata), part_count), np.int64)
    np.add.at(table, (looked.strata_of, parts), 1)
    return {stratum: table[number].tolist() for number, stratum in enumerate(looked.strata)}


def tell_groups(shares: dict[str, Fraction], counts: Sequence[int], looked: LookedAt) -> None:
    if looked.in_groups:
        groups = looked.group_count - (len(looked.groups) - looked.in_groups)
        put(f"kept together: {looked.in_groups:,} records in {groups:,} groups, the largest of {looked.largest:,}")
    if looked.not_compared:
        note(
            f"{looked.not_compared:,} records share so many words that they were taken for one group without comparing "
            "each with each; a system text that all have does that"
        )
    total = len(looked.groups)
    off = [abs(count / total - float(share)) for share, count in zip(shares.values(), counts, strict=True)]
    if max(off) > max(TOLD_DIFFERENCE, 1 / total):
        note(
            f"the parts are not of the sizes asked for, as groups stay whole (the largest: {looked.largest:,} records)"
        )


def split_report(
    shares: dict[str, Fraction], counts: Sequence[int], parts: np.ndarray, looked: LookedAt, options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "files": list(options.files),
        "seed": options.seed,
        "records": len(parts),
        "groups": looked.group_count,
        "largest_group": looked.largest,
        "parts": [
            {"file": name, "wanted": float(share), "records": count}
            for (name, share), count in zip(shares.items(), counts, strict=True)
        ],
        "strata": strata_counts(len(counts), parts, looked) if options.stratify_by else {},
    }
