"""`neuralchat data mix`: general and domain files and their shares -> one file, as finetune's --mix would train on."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator

import numpy as np

from neuralchat.config.checks import share_problems
from neuralchat.console import note, put
from neuralchat.data.mixture import MixedFile, mixed_files, passes_of, shares_of
from neuralchat.data.records import RecordReport
from neuralchat.data_tools.moving.as_kind import TARGET_KINDS, NotHeldError, row_as, told_merges
from neuralchat.data_tools.moving.new_outputs import check_new_files
from neuralchat.data_tools.moving.row_writers import ROW_ENDINGS
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
from neuralchat.data_tools.moving.writing import RowToWrite, write_rows
from neuralchat.errors import ArgumentsError, DataError, problem_list


def mix_data(options: argparse.Namespace) -> int:
    names = Counter(pair.rpartition("=")[0] for pair in options.mix)
    problems = [problem.removeprefix("--mix ") for problem in share_problems(options.mix)]
    problems += [f"{name} is named twice" for name, count in names.items() if count > 1 and name]
    if options.mix_samples is not None and options.mix_samples < 1:
        problems.append(f"--mix_samples {options.mix_samples}: it must be 1 or more")
    if problems:
        raise ArgumentsError(problem_list("the mixture cannot be made:", problems))
    shares = shares_of(options.mix)
    check_new_files([("--output", options.output)], ROW_ENDINGS, list(shares))
    source = checked_source(SourceRows(tuple(shares), tuple(options.columns), renamed=bool(options.to)))
    report, sizes = RowReport(), Counter[int]()
    for row in source.read(report):
        sizes[row.file] += 1
    settle_reading(report, options.on_bad_record)
    if not options.to:
        only_kind(report)
    if empty := [name for number, name in enumerate(shares) if not sizes[number]]:
        raise DataError(problem_list("these files have no usable record:", empty))
    files = mixed_files(shares, [sizes[number] for number in range(len(shares))], options.mix_samples)
    passes = passes_of(positions_of(files), [file.chosen for file in files], options.seed)
    mixture = Mixture(source, passes, options.to)
    (count,) = write_rows([options.output], mixture.rows, columns=() if options.to else options.columns)
    put(f"{options.output}: {count:,} records: " + ", ".join(file.told() for file in files))
    mixture.tell()
    return 0


def positions_of(files: list[MixedFile]) -> list[np.ndarray]:
    """The numbers that the records of each file have among those of all."""
    ends = np.cumsum([0, *(file.examples for file in files)])
    return [np.arange(start, end) for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]


class Mixture:
    """The chosen rows of all files, each file once for every pass. `to`: the kind that they become."""

    def __init__(self, source: SourceRows, passes: list[np.ndarray], to: str | None) -> None:
        self.source = source
        self.passes = passes
        self.to = to
        self.merged: set[str] = set()

    def rows(self) -> Iterator[RowToWrite]:
        refused = RecordReport()
        for chosen in self.passes:
            wanted = iter(chosen.tolist())
            following = next(wanted, None)
            for number, row in enumerate(self.source.again()):
                if number == following:
                    following = next(wanted, None)
                    try:
                        yield self.row_of(row)
                    except NotHeldError as error:
                        refused.refuse(row.record.source, str(error))
            if following is not None:
                raise DataError("the files were changed while they were read; nothing is written")
        if refused.problems:
            raise DataError(refused.listed(f"these rows cannot become {self.to} records:"))

    def row_of(self, row: ReadRow) -> RowToWrite:
        if self.to is None:
            return RowToWrite(0, row.value, row.record)
        if lost := nested_unused(row):
            raise NotHeldError(f"would lose {', '.join(lost)}; convert the file by itself first, with --drop")
        value, record, merges = row_as(row.record, TARGET_KINDS[self.to])
        if merges:
            self.merged.add(row.record.source)
        return RowToWrite(0, {**extra_fields(row), **value}, record)

    def tell(self) -> None:
        if self.merged:
            note(told_merges(len(self.merged)))
