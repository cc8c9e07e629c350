"""Example -> a memory-mapped file: tokenized once for each data, tokenizer and template, then read in place."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuralchat.cache import WORK_PREFIX, broken_seal, seal
from neuralchat.console import note
from neuralchat.data.tokenization import Example
from neuralchat.files import make_directory, make_private_directory, move, remove_tree, write_new_file
from neuralchat.working_directories import sweep_abandoned, working_directory_in

EXAMPLE_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("supervised", pa.list_(pa.uint8())),
        ("source", pa.string()),
        ("cut_tokens", pa.int32()),
    ]
)
ROWS_A_BATCH = 1000
EXAMPLES_FILE = "examples.arrow"
COUNTS_FILE = "counts.json"
# Part of every fingerprint: raise it when the same input would give other examples.
FORMAT = 2


class ExampleStore(Sequence[Example]):
    """Examples on disk, or a selection of them. `lengths`: int64 [examples]."""

    def __init__(self, table: pa.Table, fingerprint: str, indices: np.ndarray | None = None) -> None:
        self.table = table
        self.fingerprint = fingerprint
        self.indices = np.arange(len(table)) if indices is None else indices
        self.lengths = pc.list_value_length(table["input_ids"]).to_numpy().astype(np.int64)[self.indices]

    @classmethod
    def open(cls, directory: Path, fingerprint: str, *, in_memory: bool = False) -> tuple[ExampleStore, dict[str, Any]]:
        """The store and the counts that were written with it."""
        path = str(directory / EXAMPLES_FILE)
        with pa.OSFile(path) if in_memory else pa.memory_map(path) as source:
            table = pa.ipc.open_stream(source).read_all()
        return cls(table, fingerprint), json.loads((directory / COUNTS_FILE).read_text())

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        """Example `index`; arrays are views of the mapped file where its layout allows."""
        row = int(self.indices[index])
        return Example(
            input_ids=self.table["input_ids"][row].values.to_numpy(),
            supervised=self.table["supervised"][row].values.to_numpy().astype(bool),
            source=self.table["source"][row].as_py(),
            cut_tokens=self.table["cut_tokens"][row].as_py(),
        )

    @property
    def supervised_lengths(self) -> np.ndarray:
        """Supervised tokens of each example, int64 [examples]."""
        chunks = [
            np.add.reduceat(chunk.values.to_numpy(), chunk.offsets.to_numpy()[:-1], dtype=np.int64)
            for chunk in self.table["supervised"].chunks
            if len(chunk)
        ]
        return np.concatenate(chunks)[self.indices]

    @property
    def cut_tokens(self) -> np.ndarray:
        """Tokens of the prompt that each example lost to the length limit, int64 [examples]."""
        return self.table["cut_tokens"].to_numpy().astype(np.int64)[self.indices]

    @cached_property
    def record_numbers(self) -> np.ndarray:
        """Which record each example comes from, int64 [examples]; a record may have several."""
        sources = self.table["source"].combine_chunks().dictionary_encode()
        return sources.indices.to_numpy().astype(np.int64)[self.indices]

    @cached_property
    def content_fingerprint(self) -> str:
        """SHA-256 over what is trained on, token by token, whatever file it came from."""
        digest = hashlib.sha256(self.lengths.tobytes())
        digest.update(self.indices.tobytes())
        for name in ("input_ids", "supervised"):
            for chunk in self.table[name].chunks:
                digest.update(memoryview(chunk.flatten().to_numpy()))
        return digest.hexdigest()

    def select(self, indices: np.ndarray, label: str) -> ExampleStore:
        """The examples at `indices`, as a store with a fingerprint of its own."""
        chosen = self.indices[indices]
        mark = hashlib.sha256(chosen.tobytes() + label.encode()).hexdigest()
        return ExampleStore(self.table, fingerprint_of(self.fingerprint, mark), chosen)


def write_examples(directory: Path, examples: Iterator[Example]) -> None:
    """Stream examples into `directory`."""
    rows: list[Example] = []
    with pa.OSFile(str(directory / EXAMPLES_FILE), "wb") as sink, pa.ipc.new_stream(sink, EXAMPLE_SCHEMA) as writer:
        for example in examples:
            rows.append(example)
            if len(rows) == ROWS_A_BATCH:
                writer.write_batch(record_batch(rows))
                rows.clear()
        if rows:
            writer.write_batch(record_batch(rows))


def record_batch(rows: Sequence[Example]) -> pa.RecordBatch:
    offsets = pa.array(np.cumsum([0, *(len(row.input_ids) for row in rows)]), pa.int32())
    ids = pa.array(np.concatenate([row.input_ids for row in rows]), pa.int32())
    supervised = pa.array(np.concatenate([row.supervised for row in rows]).astype(np.uint8), pa.uint8())
    return pa.RecordBatch.from_arrays(
        [
            pa.ListArray.from_arrays(offsets, ids),
            pa.ListArray.from_arrays(offsets, supervised),
            pa.array([row.source for row in rows], pa.string()),
            pa.array([row.cut_tokens for row in rows], pa.int32()),
        ],
        schema=EXAMPLE_SCHEMA,
    )


def stored(
    root: Path,
    fingerprint: str,
    *,
    overwrite: bool = False,
    in_memory: bool = False,
    own: bool = True,
    make: Callable[[Path], dict[str, Any]],
) -> tuple[ExampleStore, dict[str, Any]]:
    """The store for `fingerprint` below `root`; `make(directory)` writes the examples and returns the counts.

    A store appears whole or not at all: it is written beside its place, sealed and renamed. One that is not what was
    stored, or (`own`) that somebody else may have written, is made again. Raises OSError where it cannot be written.
    """
    target = root / fingerprint
    if overwrite:
        remove_tree(target)
    for is_last in (False, True):
        if os.path.lexists(target) and (broken := broken_seal(target, own=own)) is not None:
            note(f"the tokens that were kept in {target} are not used: {broken}; tokenizing again")
            remove_tree(target)
        if not target.exists():
            write_store(root, target, make)
        try:
            return ExampleStore.open(target, fingerprint, in_memory=in_memory)
        except (OSError, ValueError, KeyError, pa.ArrowException):
            # Deleted or damaged by another process a moment after it was looked at.
            if is_last:
                raise
            remove_tree(target)
    raise AssertionError("the loop ends by itself")


def write_store(root: Path, target: Path, make: Callable[[Path], dict[str, Any]]) -> None:
    make_private_directory(root)
    sweep_abandoned(root, WORK_PREFIX)
    with working_directory_in(root, WORK_PREFIX) as work:
        directory = work / "store"
        make_directory(directory)
        counts = make(directory)
        write_new_file(directory / COUNTS_FILE, json.dumps(counts))
        seal(directory)
        try:
            move(directory, target)
        except OSError:
            # Another process stored the same examples first; the fingerprint says they are equal.
            if not target.exists():
                raise


def fingerprint_of(*parts: str) -> str:
    """A short SHA-256 over parts, in order."""
    digest = hashlib.sha256()
    for part in (str(FORMAT), *parts):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:32]
