"""arguments -> where the records of training and of validation come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from neuralchat.config.arguments import RECORD_FIELDS, DataArguments
from neuralchat.data.example_store import fingerprint_of
from neuralchat.data.given_records import NAMES as GIVEN_NAMES
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.hub_data_set import HubDataSet
from neuralchat.data.mixture import shares_of
from neuralchat.data.record_files import READERS, RowsOrStretches, read_rows, read_stretches
from neuralchat.data.record_files.packed import inner_ending
from neuralchat.data.record_files.rows import Rows
from neuralchat.data.record_files.saved_data_set import (
    TRAIN,
    SavedDataSetError,
    arrow_files,
    is_saved_data_set,
    names_text,
    parts_of_data_set,
)
from neuralchat.data.records import Columns, Record, RecordReport, is_conversation, records_of_rows
from neuralchat.errors import DataError, problem_list
from neuralchat.files import file_sha256
from neuralchat.paths import nearest_path

FILES_SHOWN = 8


@dataclass(frozen=True)
class RecordSource:
    """Files, a data set of a hub, or rows given in Python. `limit`: use only the first records.

    `columns`: what --columns says. `trained`: they are what is trained on. `held_out`: they are what is held out.
    """

    files: tuple[str, ...] = ()
    dataset: HubDataSet | None = None
    limit: int | None = None
    given: GivenRecords | None = None
    columns: tuple[str, ...] = ()
    trained: bool = True
    held_out: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.files or self.dataset or self.given)

    @property
    def name(self) -> str:
        """As a message quotes it: of many files the first ones."""
        if whole := self.given or self.dataset:
            return whole.name
        more = len(self.files) - FILES_SHOWN
        return ", ".join(self.files[:FILES_SHOWN]) + (f" and {more} more" if more > 0 else "")

    def check(self) -> list[str]:
        """What is wrong with the files before they are read."""
        problems = []
        for name in self.files:
            path = Path(name)
            if name in GIVEN_NAMES and not path.exists():
                problems.append(f"{name} were given in Python; give them again: neuralchat.finetune(..., {name}=...)")
                continue
            try:
                if path.is_dir():
                    problem = directory_problem(name, held_out=self.held_out)
                    problems += [problem] if problem else []
                elif not path.is_file():
                    # What was meant is looked for among all names of a directory, which takes long for thousands.
                    problems.append(missing_problem(name, guess=len(problems) < FILES_SHOWN))
                elif path.stat().st_size == 0:
                    problems.append(f"{name}: the file is empty")
            except (OSError, ValueError) as error:
                # A name that is too long, or has a NUL in it.
                problems.append(f"{name[:60]!r} cannot be the name of a file: {getattr(error, 'strerror', error)}")
        return problems

    def fingerprint(self) -> str:
        how = (str(self.limit), *self.columns)
        if self.given:
            return fingerprint_of(self.given.fingerprint(), *how)
        if self.dataset:
            return fingerprint_of(self.dataset.fingerprint(), *how)
        # The name is part of it: messages quote it.
        hashes = {name: map(file_sha256, arrow_files(Path(name))) for name in self.files}
        parts = [f"{name}={','.join(found)}" for name, found in hashes.items()]
        return fingerprint_of("files", *parts, *how)

    def parts(self) -> Iterator[tuple[str, Rows]]:
        """(name, raw rows) of each file, or of the data set. `limit` is about records, not about rows."""
        return self.read_by(read_rows)

    def parts_in_stretches(self) -> Iterator[tuple[str, RowsOrStretches]]:
        """The same, with lines of JSON not yet decoded."""
        return self.read_by(read_stretches)

    def read_by(self, read: Callable[[Path, set[str]], Any]) -> Iterator[tuple[str, Any]]:
        if self.given:
            yield self.given.name, self.given.raw_rows()
        elif self.dataset:
            yield self.dataset.name, self.dataset.raw_rows()
        else:
            fields = {*RECORD_FIELDS, *Columns(self.columns).columns.values()}
            yield from ((name, read(Path(name), fields)) for name in self.files)

    def records(self, report: RecordReport) -> Iterator[Record]:
        """The good records in order; problems are added to `report`."""
        columns = Columns(self.columns)
        found = (record for name, rows in self.parts() for record in records_of_rows(name, rows, report, columns))
        yield from islice(found, self.limit)
        # Held-out records may have the names of records where those of training have not.
        if self.trained or columns.seen:
            for flag, problem in columns.missing():
                report.add(flag, None, problem)
                report.fatal = True

    def first_records(self) -> list[Record]:
        """The first good record of each file that has one."""
        parts = [replace(self, files=(name,)) for name in self.files] or [self]
        firsts = [next(part.records(RecordReport()), None) for part in parts]
        return [record for record in firsts if record is not None]


def missing_problem(name: str, *, guess: bool) -> str:
    """Why there is no file of a name, and with `guess` which one may be meant."""
    if "://" in name:
        return f"{name} is an address; download it, and name the file"
    if any(sign in name for sign in "*?["):
        return f"{name} does not exist; patterns are filled in by the shell only, where they stand without quotes"
    near = nearest_path(name) if guess else None
    return f"{name} does not exist" + (f"; did you mean {near}?" if near else "")


def directory_problem(name: str, *, held_out: bool) -> str | None:
    """What keeps a directory from being read as a data set that was saved."""
    directory = Path(name)
    if not is_saved_data_set(directory):
        found = sorted(path for path in directory.glob("*") if path.is_file() and inner_ending(path) in READERS)
        more = " ..." if len(found) > FILES_SHOWN else ""
        return (
            f"{name} is a directory; name the files in it{':' if found else ''}"
            + "".join(f" {path}" for path in found[:FILES_SHOWN])
            + more
        )
    try:
        parts = parts_of_data_set(directory)
        if held_out and len(parts) > 1:
            # Which of them was not trained on, its maker knows.
            other = next(part for part in parts if part != TRAIN)
            return f"{name} holds the data sets {names_text(parts)}; name the one to hold out: {directory / other}"
        missing = [file.name for file in arrow_files(directory) if not file.is_file()]
    except SavedDataSetError as error:
        return f"{name} {error}"
    return f"{name} lacks files of its data set: {names_text(missing)}" if missing else None


def unread_parts(source: RecordSource) -> list[str]:
    """A notice for each directory of which one data set is read and others are not."""
    notices = []
    for name in source.files:
        parts = parts_of_data_set(Path(name)) if Path(name).is_dir() else []
        if len(parts) > 1:
            others = [part for part in parts if part != TRAIN]
            notices.append(f"train: {name}: its data set {TRAIN} is read; not used: {names_text(others)}")
    return notices


def sources(
    data: DataArguments, cache_dir: str | None = None, given: Sequence[GivenRecords] = ()
) -> tuple[RecordSource, RecordSource]:
    """(training, validation) sources. Raises DataError naming every missing or empty file."""
    hub = HubDataSet(data.dataset_name, data.dataset_config_name, cache_dir) if data.dataset_name else None
    columns = tuple(data.columns)
    files = list(shares_of(data.mix)) or data.train_file
    train = record_source(files, hub, data.max_train_samples, given, columns)
    held_out = record_source(data.validation_file, None, data.max_eval_samples, given, columns)
    validation = replace(held_out, trained=train.is_empty, held_out=True)
    if problems := [*train.check(), *validation.check()]:
        raise DataError(problem_list("the record files cannot be used:", problems))
    return train, validation


def record_source(
    files: Sequence[str],
    hub: HubDataSet | None,
    limit: int | None,
    given: Sequence[GivenRecords],
    columns: tuple[str, ...],
) -> RecordSource:
    """Rows given in Python stand under their name where files would be named."""
    rows = next((records for records in given if files == [records.name]), None)
    return RecordSource(() if rows else tuple(files), hub, limit, rows, columns)


def mixed_kinds(firsts: Sequence[Record], template: str) -> list[str]:
    """A notice where files hold records of different kinds; `template` is the one that all of them take."""
    if len({record.kind for record in firsts}) < 2:
        return []
    listed = ", ".join(f"{record.source.rpartition(' row ')[0]} {record.kind}" for record in firsts)
    return [f"train: the files hold records of several kinds ({listed}); all take the template {template}"]


def chats(firsts: Sequence[Record]) -> bool:
    """Whether the records call for the chat template: some file holds conversations."""
    return any(map(is_conversation, firsts))


def find_records(source: RecordSource, wanted: Sequence[str]) -> list[Record]:
    """The records whose `source` is among `wanted`, in that order; reads no further than the last of them."""
    names, found = set(wanted), dict[str, Record]()
    for record in source.records(RecordReport()):
        if record.source in names:
            found[record.source] = record
            if len(found) == len(names):
                break
    return [found[name] for name in wanted if name in found]
