"""arguments and tokenizer -> training and validation examples, all problems of all files told at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from neuralchat.cache import cache_directory, keep_within_limit, trusted_directory
from neuralchat.config.arguments import DataArguments
from neuralchat.console import inform, note
from neuralchat.data.example_store import ExampleStore, fingerprint_of, stored, write_examples
from neuralchat.data.given_records import NAMES as GIVEN_NAMES
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.record_files import RawRow, SyntaxProblem
from neuralchat.data.records import Record, RecordReport, read_records, records_of_rows
from neuralchat.data.templates.making import make_template
from neuralchat.data.templates.template import Template
from neuralchat.data.tokenization import Encoder, Example, Seq2SeqEncoder, TokenizationCounts, tokenize
from neuralchat.errors import DataError, NeuralChatError, panics_told, problem_list, system_error_line
from neuralchat.files import file_sha256

PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class RecordSource:
    """Files, a data set of a hub, or rows given in Python. `limit`: use only the first records."""

    files: tuple[str, ...] = ()
    dataset: tuple[str, str | None, str | None] | None = None
    limit: int | None = None
    given: GivenRecords | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.files or self.dataset or self.given)

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
                    problems.append(f"{name} is a directory; name the files in it")
                elif not path.is_file():
                    problems.append(f"{name} does not exist")
                elif path.stat().st_size == 0:
                    problems.append(f"{name}: the file is empty")
            except (OSError, ValueError) as error:
                # A name that is too long, or has a NUL in it.
                problems.append(f"{name[:60]!r} cannot be the name of a file: {getattr(error, 'strerror', error)}")
        return problems

    @property
    def name(self) -> str:
        return self.given.name if self.given else self.dataset[0] if self.dataset else ", ".join(self.files)

    def fingerprint(self) -> str:
        if self.given:
            return fingerprint_of(self.given.fingerprint(), str(self.limit))
        if self.dataset:
            return fingerprint_of("hub", *map(str, self.dataset), str(self.limit))
        # The name is part of it: messages quote it.
        parts = [f"{name}={file_sha256(Path(name))}" for name in self.files]
        return fingerprint_of("files", *parts, str(self.limit))

    def records(self, report: RecordReport) -> Iterator[Record]:
        if self.given:
            found = records_of_rows(self.given.name, self.given.raw_rows(), report)
        else:
            found = self.hub_records(report) if self.dataset else read_records(self.files, report)
        return islice(found, self.limit)

    def hub_records(self, report: RecordReport) -> Iterator[Record]:
        import datasets

        assert self.dataset is not None
        name, config, cache_dir = self.dataset
        try:
            rows = datasets.load_dataset(name, config, split="train", cache_dir=cache_dir)
        except (OSError, ValueError, ConnectionError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"data set '{name}' cannot be loaded: {str(error).splitlines()[0]}") from error
        raw: Iterator[RawRow | SyntaxProblem] = (RawRow(i, dict(row)) for i, row in enumerate(rows, start=1))
        return records_of_rows(name, raw, report)

    def is_conversation(self) -> bool:
        """Whether the first good record is a messages or ShareGPT conversation."""
        first = next(self.records(RecordReport()), None)
        return first is not None and first.kind != "Alpaca"


@dataclass(frozen=True)
class PreparedData:
    """Examples ready for training. `train` or `validation` is None where there are no such records."""

    train: ExampleStore | None
    validation: ExampleStore | None
    template: Template
    counts: dict[str, Any]
    train_source: RecordSource
    validation_source: RecordSource

    @property
    def trained_on(self) -> ExampleStore:
        """The training examples; where a run only evaluates, the held-out ones stand in their place."""
        store = self.train if self.train is not None else self.validation
        assert store is not None
        return store


def sources(
    data: DataArguments, cache_dir: str | None = None, given: Sequence[GivenRecords] = ()
) -> tuple[RecordSource, RecordSource]:
    """(training, validation) sources. Raises DataError naming every missing or empty file."""
    hub = (data.dataset_name, data.dataset_config_name, cache_dir) if data.dataset_name else None
    train = record_source(data.train_file, hub, data.max_train_samples, given)
    validation = record_source(data.validation_file, None, data.max_eval_samples, given)
    if problems := [*train.check(), *validation.check()]:
        raise DataError(problem_list("the record files cannot be used:", problems))
    return train, validation


def record_source(files: Sequence[str], hub: Any, limit: int | None, given: Sequence[GivenRecords]) -> RecordSource:
    """Rows given in Python stand under their name where files would be named."""
    rows = next((records for records in given if files == [records.name]), None)
    return RecordSource(() if rows else tuple(files), hub, limit, rows)


def prepare(
    data: DataArguments,
    tokenizer: Any,
    *,
    encoder_decoder: bool = False,
    cache_dir: str | None = None,
    given: Sequence[GivenRecords] = (),
    template_date: str | None = None,
) -> PreparedData:
    """Read, check, render and tokenize, or take the same from the cache.

    Raises DataError with the problems of all files, and TemplateError where a record cannot be rendered.
    """
    train_source, validation_source = sources(data, cache_dir, given)
    asked = bool(data.chat_template or data.template_variables)
    conversations = data.template == "auto" and (asked or train_source.is_conversation())
    template = make_template(
        data.template,
        tokenizer,
        conversations=conversations,
        encoder_decoder=encoder_decoder,
        kwargs=data.template_variables,
        date=template_date,
    )
    for notice in template.notices:
        note(notice)
    encoder = make_encoder(data, tokenizer, template, encoder_decoder=encoder_decoder)
    stores: dict[str, ExampleStore] = {}
    all_counts: dict[str, Any] = {}
    failures: list[str] = []
    for label, source in (("train", train_source), ("validation", validation_source)):
        if source.is_empty:
            continue
        try:
            store, counts = tokenized(source, encoder, data)
        except DataError as error:
            failures.append(str(error))
            continue
        stores[label] = store
        all_counts[label] = {key: value for key, value in counts.items() if key != "notices"}
        for notice in counts["notices"]:
            note(f"{label}: {notice}")
    if failures:
        raise DataError("\n".join(failures))
    if data.validation_split_percentage:
        stores["train"], stores["validation"] = split_off_validation(stores["train"], data)
        for label, store in stores.items():
            all_counts.setdefault(label, {}).update(
                examples=len(store),
                tokens=int(store.lengths.sum()),
                supervised_tokens=int(store.supervised_lengths.sum()),
                longest=int(store.lengths.max()),
            )
        validation_source = train_source
    return PreparedData(
        stores.get("train"), stores.get("validation"), template, all_counts, train_source, validation_source
    )


def make_encoder(data: DataArguments, tokenizer: Any, template: Template, *, encoder_decoder: bool) -> Encoder:
    if encoder_decoder:
        return Seq2SeqEncoder(
            tokenizer, template, max_source_length=data.max_source_length, max_target_length=data.max_target_length
        )
    return Encoder(tokenizer, template, max_seq_length=data.max_seq_length, train_on_inputs=data.train_on_inputs)


def tokenized(source: RecordSource, encoder: Encoder, data: DataArguments) -> tuple[ExampleStore, dict[str, Any]]:
    content = source.fingerprint()
    fingerprint = fingerprint_of(
        content,
        tokenizer_fingerprint(encoder.tokenizer),
        encoder.template.fingerprint(),
        str(encoder.max_seq_length),
        encoder.limit,
        str(encoder.train_on_inputs),
        data.on_bad_record,
    )

    def make(directory: Path) -> dict[str, Any]:
        report, counts = RecordReport(), TokenizationCounts()
        write_examples(directory, with_progress(tokenize(source.records(report), encoder, counts)))
        notice = report.settle(data.on_bad_record)
        if not counts.examples:
            raise DataError(problem_list("no record can be trained on:", counts.unusable, unlisted=counts.unlisted))
        if source.fingerprint() != content:
            # What was read is neither the old file nor the new one.
            raise DataError(f"the records changed while they were read: {source.name}; start again when they are whole")
        ignored = sorted(map(str, report.ignored_fields))
        notices = [notice] if notice else []
        notices += [f"fields that are not used: {', '.join(ignored)}"] if ignored else []
        return {
            **counts.as_dict(),
            "bad_rows": report.bad_rows,
            "notices": notices + counts.notices(encoder.limit),
        }

    named = data.dataset_cache_directory
    with cache_failures_told(named), panics_told(f"the tokenizer of '{encoder.tokenizer.name_or_path}'"):
        root = Path(named) if named else trusted_directory(cache_directory() / "tokenized")
        found = stored(
            root,
            fingerprint,
            overwrite=data.overwrite_cache,
            in_memory=data.keep_in_memory,
            # A directory that several users share is their word.
            own=not named,
            make=make,
        )
        if not named:
            for entry in keep_within_limit(keep=root / fingerprint):
                note(f"{entry.path} was deleted: the cache is larger than $NEURALCHAT_CACHE_GIB allows")
        return found


@contextmanager
def cache_failures_told(named: str | None) -> Iterator[None]:
    """Whatever the system refuses of the cache of tokens becomes an error that says what helps."""
    try:
        yield
    except OSError as error:
        place = named or "of tokenized records"
        raise NeuralChatError(
            f"the cache {place} cannot be written: {system_error_line(error)}; name another place with "
            "--dataset_cache_directory, or make room with 'neuralchat cache clear'"
        ) from error


def with_progress(examples: Iterator[Example]) -> Iterator[Example]:
    """Pass examples on and report the progress every few seconds; short files are done before the first report."""
    told = start = time.perf_counter()
    for number, example in enumerate(examples, start=1):
        yield example
        now = time.perf_counter()
        if now - told > PROGRESS_SECONDS:
            told = now
            inform(f"tokenized {number:,} records ({number / (now - start):,.0f} per second)")


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 over all that decides how text becomes ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(content.encode()).hexdigest()


def split_off_validation(store: ExampleStore, data: DataArguments) -> tuple[ExampleStore, ExampleStore]:
    """(training, validation) by a seeded shuffle; the split depends on the data and --dataset_seed only."""
    count = round(len(store) * data.validation_split_percentage / 100)
    if not 0 < count < len(store):
        raise DataError(
            f"--validation_split_percentage {data.validation_split_percentage} of {len(store)} examples leaves "
            f"{len(store) - count} to train on and {count} to validate on; both must be at least 1"
        )
    order = np.random.default_rng(data.dataset_seed).permutation(len(store))
    held_out = np.sort(order[:count])[: data.max_eval_samples]
    return store.select(np.sort(order[count:]), "train"), store.select(held_out, "validation")


def find_records(source: RecordSource, wanted: Sequence[str]) -> list[Record]:
    """The records whose `source` is among `wanted`, in that order; reads no further than the last of them."""
    found: dict[str, Record] = {}
    for record in source.records(RecordReport()):
        if record.source in wanted:
            found[record.source] = record
            if len(found) == len(wanted):
                break
    return [found[name] for name in wanted if name in found]
