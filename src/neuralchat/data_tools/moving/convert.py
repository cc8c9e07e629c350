"""`neuralchat data convert`: files of records in one form -> one file in another."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from neuralchat.console import note, put
from neuralchat.data.records import RecordReport
from neuralchat.data_tools.moving.as_kind import TARGET_KINDS, NotHeldError, row_as, told_merges
from neuralchat.data_tools.moving.from_use.openai_logs import LOG_FIELDS, LogRows, RequestOfBatch, batch_requests
from neuralchat.data_tools.moving.from_use.preference_pairs import PREFERENCE_FIELDS, RatedAnswers, rows_of_preferences
from neuralchat.data_tools.moving.new_outputs import check_new_files, placed_outputs
from neuralchat.data_tools.moving.row_writers import ROW_ENDINGS, TABLE_ENDINGS, open_writer
from neuralchat.data_tools.moving.source_rows import (
    ReadRow,
    RowReport,
    SourceRows,
    checked_source,
    extra_fields,
    nested_unused,
    only_kind,
    settle_reading,
)
from neuralchat.data_tools.moving.table_layout import TableLayout
from neuralchat.data_tools.moving.writing import RowToWrite, write_rows
from neuralchat.errors import ArgumentsError, DataError

PREFERENCE = "preference"
PREFERENCE_ENDINGS = tuple(ending for ending in ROW_ENDINGS if ending not in TABLE_ENDINGS)
FIELDS_SHOWN = 8


def convert_data(options: argparse.Namespace) -> int:
    if options.to == PREFERENCE:
        return convert_to_pairs(options)
    if options.unpaired:
        raise ArgumentsError(f"--unpaired is for --to {PREFERENCE}")
    check_new_files([("--output", options.output)], ROW_ENDINGS, options.files)
    checked_source(SourceRows(tuple(options.files)))
    requests = batch_requests(options.files)
    files = tuple(name for name in options.files if name not in requests)
    if not files:
        raise DataError("the files hold requests of a batch; name the file of its answers too")
    source = SourceRows(files, tuple(options.columns), fields=LOG_FIELDS, renamed=True)
    conversion = Conversion(options.to, frozenset(options.drop), requests)
    (count,) = write_rows([options.output], lambda: conversion.rows(source, options.on_bad_record))
    kinds = ", ".join(f"{name} ({kind})" for name, kind in list(conversion.reading.kinds.items())[:FIELDS_SHOWN])
    kind = TARGET_KINDS[options.to].kind if options.to else only_kind(conversion.reading)
    put(f"{options.output}: {count:,} {kind} records from {kinds}")
    return 0


@dataclass
class Conversion:
    """Rows of any kind -> rows of the kind `to`, or of their own; `drop`: the fields that may be lost."""

    to: str | None
    drop: frozenset[str]
    requests: Mapping[str, Mapping[str, RequestOfBatch]]
    reading: RowReport = field(default_factory=RowReport)
    logs: LogRows = field(default_factory=LogRows)
    told: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)
    merged: int = 0

    def rows(self, source: SourceRows, on_bad_record: str) -> Iterator[RowToWrite]:
        """Raises DataError at the end, with all rows that the kind cannot hold; tells once what is not as it was."""
        self.reading = RowReport()
        self.logs = LogRows({key: asked for own in self.requests.values() for key, asked in own.items()})
        refused = RecordReport()
        for row in replace(source, as_rows=self.logs).read(self.reading):
            try:
                yield self.converted(row)
            except NotHeldError as error:
                refused.refuse(row.record.source, str(error))
        self.logs.finish()
        if not self.told:
            if self.logs.left_out.problems:
                note(self.logs.left_out.listed("left out of the logs:"))
            settle_reading(self.reading, on_bad_record)
        if refused.problems:
            raise DataError(refused.listed("these rows cannot be converted:"))
        if self.to is None:
            only_kind(self.reading)
        self.tell()

    def converted(self, row: ReadRow) -> RowToWrite:
        if self.to is None:
            kept = {name: held for name, held in row.value.items() if name not in self.drop}
            self.dropped.update(self.drop & set(row.value))
            return RowToWrite(0, kept, row.record)
        target = TARGET_KINDS[self.to]
        if lost := [name for name in nested_unused(row) if name not in self.drop]:
            shown = ", ".join(lost[:FIELDS_SHOWN])
            raise NotHeldError(
                f"would lose {shown}; if it may be lost, say so: --drop '{','.join(lost[:FIELDS_SHOWN])}'"
            )
        value, record, merges = row_as(row.record, target)
        extra = {name: held for name, held in extra_fields(row).items() if name not in self.drop}
        if taken := [name for name in extra if name in value]:
            raise NotHeldError(
                f"has a field '{taken[0]}' of its own, and {target.kind} records have one by that name; rename it, or "
                f"leave it out: --drop {taken[0]}"
            )
        self.merged += merges
        self.beside.update(extra.keys())
        self.dropped.update(name for name in row.unused if name in self.drop)
        return RowToWrite(0, {**value, **extra}, record)

    def tell(self) -> None:
        if self.told:
            return
        self.told = True
        if self.merged:
            note(f"{told_merges(self.merged)}; that cannot be taken apart again")
        if self.beside:
            note(f"kept beside the records, where finetune does not read them: {named_counts(self.beside)}")
        if self.dropped:
            note(f"left out by --drop: {named_counts(self.dropped)}")
        if self.logs.answered:
            note("of each log only the last answer is learned; of requests, messages and tools are kept")


def named_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count:,} rows)" for name, count in list(counts.items())[:FIELDS_SHOWN])


def convert_to_pairs(options: argparse.Namespace) -> int:
    named = [("--output", options.output), *([("--unpaired", options.unpaired)] if options.unpaired else [])]
    check_new_files(named, PREFERENCE_ENDINGS, options.files)
    source = checked_source(
        SourceRows(tuple(options.files), tuple(options.columns), rows_of_preferences, PREFERENCE_FIELDS, renamed=True)
    )
    reading, problems, rated = RowReport(), RecordReport(), RatedAnswers()
    for row in source.read(reading):
        rated.add(row, problems)
    settle_reading(reading, options.on_bad_record)
    if problems.problems:
        raise DataError(
            problems.listed("these rows are not rated:")
            + f"\n--to {PREFERENCE} takes the files of serve --feedback, FILE and FILE.down, or rows with "
            "chosen and rejected."
        )
    pairs, alone = list(rated.pairs()), list(rated.unpaired())
    if not pairs and not options.unpaired:
        raise DataError(
            f"no bad answer has a good one to the same prompt ({len(alone)} bad, {rated.good_alone()} good); "
            "name a file for bad answers that stand alone: --unpaired FILE.jsonl"
        )
    files = [
        (name, rows, what)
        for name, rows, what in (
            (options.output, pairs, "pairs of a chosen and a rejected answer"),
            (options.unpaired, alone, "rejected answers that stand alone"),
        )
        if name and rows
    ]
    write_plain([name for name, _, _ in files], [rows for _, rows, _ in files])
    for name, rows, what in files:
        put(f"{name}: {len(rows):,} {what}")
    if alone and not options.unpaired:
        note(f"{len(alone):,} bad answers have no good one to the same prompt: --unpaired FILE keeps them")
    if rated.both:
        note(f"{rated.both:,} answers were found both good and bad, and are left out")
    if good := rated.good_alone():
        note(f"{good:,} good answers have no bad one to the same prompt; they are records to train on as they are")
    return 0


def write_plain(names: Sequence[str], rows: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Rows that are no records, as JSON."""
    with placed_outputs(names) as works:
        for work, own in zip(works, rows, strict=True):
            with ExitStack() as stack:
                writer = open_writer(work, TableLayout(), stack)
                for row in own:
                    writer.write(row)
                writer.finish()
