"""`neuralchat data sample`: some records of many, drawn by a seed, to look at or into a new file."""

from __future__ import annotations

import argparse
import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from neuralchat.console import put
from neuralchat.data.mixture import chosen_counts
from neuralchat.data.records import Record
from neuralchat.data_tools.moving.new_outputs import check_new_files
from neuralchat.data_tools.moving.row_writers import ROW_ENDINGS
from neuralchat.data_tools.moving.source_rows import (
    ReadRow,
    RowReport,
    SourceRows,
    checked_source,
    conversation_digest,
    field_text,
    only_kind,
    settle_reading,
)
from neuralchat.data_tools.moving.writing import RowToWrite, write_rows
from neuralchat.errors import ArgumentsError

TURN_CHARACTERS = 600


def sample_data(options: argparse.Namespace) -> int:
    if options.number < 1:
        raise ArgumentsError(f"--number {options.number}: it must be 1 or more")
    if options.output:
        check_new_files([("--output", options.output)], ROW_ENDINGS, options.files)
    source = checked_source(SourceRows(tuple(options.files), tuple(options.columns)))
    report = RowReport()
    drawn = DrawnRows(options.seed)
    for row in source.read(report):
        drawn.add(row, options.stratify_by)
    settle_reading(report, options.on_bad_record)
    if options.stratify_by and not drawn.has_field:
        raise ArgumentsError(f"--stratify_by {options.stratify_by}: no row has this field")
    chosen = drawn.chosen(options.number)
    if not options.output:
        for row in rows_at(source, chosen):
            put(record_told(row.record))
        return 0
    only_kind(report)
    (count,) = write_rows(
        [options.output],
        lambda: (RowToWrite(0, row.value, row.record) for row in rows_at(source, chosen)),
        columns=options.columns,
    )
    put(f"{options.output}: {count:,} of {drawn.count:,} records")
    return 0


class DrawnRows:
    """Of each row a number by which it is drawn: a function of the seed and of what the row says.

    So a sample does not depend on the order of rows, and a smaller one is part of a larger one.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.lots = array("Q")
        self.strata: dict[str, int] = {}
        self.strata_of = array("q")
        self.copies: Counter[bytes] = Counter()
        self.has_field = False

    @property
    def count(self) -> int:
        return len(self.lots)

    def add(self, row: ReadRow, stratify_by: str | None) -> None:
        key = conversation_digest(row.record)
        # Copies of a record are drawn each for itself.
        lot = hashlib.blake2b(b"%d %d " % (self.seed, self.copies[key]) + key, digest_size=8).digest()
        self.copies[key] += 1
        self.lots.append(int.from_bytes(lot))
        stratum = field_text(row.value, stratify_by) if stratify_by else None
        self.has_field |= stratum is not None
        self.strata_of.append(self.strata.setdefault(stratum or "", len(self.strata)))

    def chosen(self, number: int) -> np.ndarray:
        """The positions of the drawn rows, in order; of each stratum as many as its share."""
        lots, strata_of = np.asarray(self.lots), np.asarray(self.strata_of)
        sizes = np.bincount(strata_of, minlength=len(self.strata))
        names = sorted(self.strata)
        shares = [Fraction(int(sizes[self.strata[name]]), len(lots)) for name in names]
        counts = chosen_counts(shares, [1] * len(shares), min(number, len(lots)))
        found = []
        for name, count in zip(names, counts, strict=True):
            own = np.flatnonzero(strata_of == self.strata[name])
            found.append(own[np.argsort(lots[own], kind="stable")[:count]])
        return np.sort(np.concatenate(found))


def rows_at(source: SourceRows, positions: np.ndarray) -> Iterator[ReadRow]:
    wanted = set(positions.tolist())
    for number, row in enumerate(source.again()):
        if number in wanted:
            yield row
            wanted.discard(number)
            if not wanted:
                return


def record_told(record: Record) -> str:
    lines = [f"{record.source} ({record.kind})"]
    for turn in record.turns:
        for role, text in ((turn.role, turn.content), ("input", turn.context), ("reasoning", turn.reasoning)):
            if text:
                shown = (
                    text if len(text) <= TURN_CHARACTERS else f"{text[:TURN_CHARACTERS]}... ({len(text):,} characters)"
                )
                lines.append(f"  {role:9}  " + shown.strip().replace("\n", "\n             "))
        lines += [
            f"  calls      {call['function']['name']} {call['function']['arguments']}" for call in turn.tool_calls
        ]
    return "\n".join(lines) + "\n"
