"""arguments and tokenizer -> training and validation examples, all problems of all files told at once."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from neuralchat.cache import cache_directory, keep_within_limit, trusted_directory
from neuralchat.config.arguments import DataArguments
from neuralchat.console import inform, note
from neuralchat.data.example_store import ExampleStore, fingerprint_of, stored, write_examples
from neuralchat.data.general_plan import general_examples
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.mixture import mixed, rows_of_file, shares_of
from neuralchat.data.record_source import RecordSource, chats, mixed_kinds, sources, unread_parts
from neuralchat.data.records import RecordReport
from neuralchat.data.templates.making import LEFT_OPEN, make_template
from neuralchat.data.templates.template import Template
from neuralchat.data.tokenization import Encoder, Example, Seq2SeqEncoder, tokenize
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.errors import DataError, NeuralChatError, panics_told, problem_list, system_error_line

PROGRESS_SECONDS = 5.0
# Raised where records are read otherwise than before: what an earlier version has kept of them is not used then.
READING = "4"

# Of records of which none is left, as many are told; and the flag that a reason names as the limit.
UNUSABLE_SHOWN = 5
LIMIT = re.compile(r"--max_\w+_length")


@dataclass(frozen=True)
class PreparedData:
    """Examples ready for training. `train` or `validation` is None where there are no such records."""

    train: ExampleStore | None
    validation: ExampleStore | None
    template: Template
    counts: dict[str, Any]
    train_source: RecordSource
    validation_source: RecordSource
    encoder: Encoder

    @cached_property
    def general(self) -> list[Example]:
        """The general prompts as training shows them, for all that looks at them; no encoder-decoder model does."""
        return general_examples(self.encoder.tokenizer, self.template, max_seq_length=self.encoder.max_seq_length)

    @property
    def trained_on(self) -> ExampleStore:
        """The training examples; where a run only evaluates, the held-out ones stand in their place."""
        store = self.train if self.train is not None else self.validation
        assert store is not None
        return store


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

    Raises DataError with the problems of all files, also the records that the template refuses, and TemplateError
    where it can be used for none.
    """
    train_source, validation_source = sources(data, cache_dir, given)
    firsts = train_source.first_records()
    asked = bool(data.chat_template or data.template_variables)
    template = make_template(
        data.template,
        tokenizer,
        conversations=asked or chats(firsts),
        encoder_decoder=encoder_decoder,
        kwargs=data.template_variables,
        date=template_date,
    )
    notices = [*unread_parts(train_source), *template.notices, *mixed_kinds(firsts, template.name)]
    if data.template in LEFT_OPEN and chats(firsts) and not tokenizer.chat_template and not encoder_decoder:
        notices.append(
            "the records are conversations and the tokenizer has no chat template: they take Alpaca's; "
            "--chat_template FILE gives another"
        )
    for notice in notices:
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
    if data.mix:
        all_counts["train"]["mixture"], stores["train"] = mixture(stores["train"], data)
    if data.validation_split_percentage:
        stores["train"], stores["validation"] = split_off_validation(stores["train"], data)
        validation_source = train_source
    if data.mix or data.validation_split_percentage:
        for label, store in stores.items():
            all_counts.setdefault(label, {}).update(counts_of(store))
    return PreparedData(
        stores.get("train"), stores.get("validation"), template, all_counts, train_source, validation_source, encoder
    )


def make_encoder(data: DataArguments, tokenizer: Any, template: Template, *, encoder_decoder: bool) -> Encoder:
    if encoder_decoder:
        return Seq2SeqEncoder(
            tokenizer, template, max_source_length=data.max_source_length, max_target_length=data.max_target_length
        )
    return Encoder(
        tokenizer,
        template,
        max_seq_length=data.max_seq_length,
        train_on_inputs=data.train_on_inputs,
        supervise=data.supervise,
    )


def tokenized(source: RecordSource, encoder: Encoder, data: DataArguments) -> tuple[ExampleStore, dict[str, Any]]:
    content = source.fingerprint()
    fingerprint = fingerprint_of(
        content,
        tokenizer_fingerprint(encoder.tokenizer),
        encoder.template.fingerprint(),
        str(encoder.max_seq_length),
        encoder.limit,
        str(encoder.train_on_inputs),
        encoder.supervise,
        data.on_bad_record,
        READING,
    )

    def make(directory: Path) -> dict[str, Any]:
        report, counts = RecordReport(), TokenizationCounts()
        write_examples(directory, with_progress(tokenize(source.records(report), encoder, counts, report)))
        notice = report.settle(data.on_bad_record)
        if not counts.examples:
            raise DataError(nothing_left(counts))
        if source.fingerprint() != content:
            # What was read is neither the old file nor the new one.
            raise DataError(f"the records changed while they were read: {source.name}; start again when they are whole")
        ignored = sorted(map(str, report.ignored_fields))
        notices = [notice] if notice else []
        notices += [doubt.told() for doubt in report.doubts.values()]
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


def mixture(store: ExampleStore, data: DataArguments) -> tuple[dict[str, Any], ExampleStore]:
    """What is chosen of each file, for the manifest, and the examples; told before anything is trained."""
    store, files = mixed(store, data.mix, seed=data.dataset_seed, total=data.mix_samples)
    note(f"train: mixture of {len(store):,} examples: {', '.join(file.told() for file in files)}")
    return {
        file.name: {"share": float(file.share), "examples": file.examples, "chosen": file.chosen} for file in files
    }, store


def counts_of(store: ExampleStore) -> dict[str, int]:
    """The counts of a part of what was tokenized."""
    return {
        "examples": len(store),
        "tokens": int(store.lengths.sum()),
        "supervised_tokens": int(store.supervised_lengths.sum()),
        "longest": int(store.lengths.max()),
    }


def split_off_validation(store: ExampleStore, data: DataArguments) -> tuple[ExampleStore, ExampleStore]:
    """(training, validation) by a seeded shuffle; the split depends on the data and --dataset_seed only.

    All examples of a record are on one side, also those that a mixture repeats; of a mixture, the share is held out of
    each file.
    """
    # The first example of each record stands for it.
    records, firsts = np.unique(store.record_numbers, return_index=True)
    files = [np.intersect1d(rows_of_file(store, name), firsts) for name in shares_of(data.mix)] or [np.sort(firsts)]
    random = np.random.default_rng(data.dataset_seed)
    chosen = np.concatenate(
        [own[random.permutation(len(own))[: round(len(own) * data.validation_split_percentage / 100)]] for own in files]
    )
    if not 0 < len(chosen) < len(records):
        raise DataError(
            f"--validation_split_percentage {data.validation_split_percentage} of {len(records)} examples leaves "
            f"{len(records) - len(chosen)} to train on and {len(chosen)} to validate on; both must be at least 1"
        )
    is_held_out = np.isin(store.record_numbers, store.record_numbers[chosen])
    # Each once.
    held_out = np.intersect1d(np.flatnonzero(is_held_out), np.unique(store.indices, return_index=True)[1])
    return store.select(np.flatnonzero(~is_held_out), "train"), store.select(
        held_out[: data.max_eval_samples], "validation"
    )


def nothing_left(counts: TokenizationCounts) -> str:
    """Why no record of a source became an example: the first of them, for mostly all have one reason."""
    text = problem_list("no record can be trained on:", counts.unusable, shown=UNUSABLE_SHOWN, unlisted=counts.unlisted)
    flags = sorted({flag for reason in counts.unusable for flag in LIMIT.findall(reason)})
    return f"{text}\nRaise {' and '.join(flags)}, or shorten the records." if flags else text
