"""What is remembered of each record while files are streamed: hashes and lengths, some ten bytes each, never texts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from neuralchat.data_tools.checking.findings import Place
from neuralchat.data_tools.checking.record_text import RecordText, without_case
from neuralchat.data_tools.near_duplicates import HASHES
from neuralchat.data_tools.wording_table import Sketches, sketches_of

# Small letters for capitals, and a space for each byte that is white space.
FOLDED = bytes(0x20 if chr(byte).isspace() else ord(chr(byte).lower()) for byte in range(128)) + bytes(range(128, 256))
KEY_BYTES = 8


@dataclass(frozen=True)
class RecordMarks:
    """Of some records: hashes of question and answer, the row, how long question and answers are in characters, and
    sketches of the wording with whether there is one; without near duplicates, none.
    """

    questions: npt.NDArray[np.uint64]
    answers: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.int64]
    asked_lengths: npt.NDArray[np.int32]
    answer_lengths: npt.NDArray[np.int32]
    sketches: Sketches
    has_sketch: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, texts: list[RecordText], *, near: bool) -> RecordMarks:
        questions, answers = bytearray(), bytearray()
        for text in texts:
            answer = key_bytes(text.answer)
            answers += key_digest(answer)
            # Texts without a prompt ask what they say.
            questions += key_digest(key_bytes(text.prompt) or answer)
        wordings = sketches_of([text.whole for text in texts] if near else ())
        return cls(
            np.frombuffer(questions, np.uint64),
            np.frombuffer(answers, np.uint64),
            np.asarray([text.place.row for text in texts], np.int64),
            np.asarray([len(text.prompt) for text in texts], np.int32),
            np.asarray([len(text.answer) for text in texts], np.int32),
            *wordings,
        )


def key_bytes(text: str) -> bytes:
    """A text without case and spacing, by which copies differ.

    >>> key_bytes(" Name  a\\nFruit. ")
    b'name a fruit.'
    """
    if not text.isascii():
        return without_case(text).encode("utf-8", "surrogatepass")
    # The same, several times as fast.
    key = text.encode().translate(FOLDED)
    while b"  " in key:
        key = key.replace(b"  ", b" ")
    return key.strip(b" ")


def question_digest(text: RecordText) -> bytes:
    """(KEY_BYTES,) what makes two records ask the same; texts without a prompt ask what they say."""
    return key_digest(key_bytes(text.prompt) or key_bytes(text.answer))


def key_digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=KEY_BYTES).digest()


@dataclass
class RecordTable:
    """The marks of all records in order, those of validation before those of training.

    They grow in place: joining thousands of arrays at the end would take twice the memory.
    """

    columns: dict[str, bytearray] = field(default_factory=dict)
    # First record of each stretch of one file, with the name of the file.
    stretches: list[tuple[int, str]] = field(default_factory=list)
    count: int = 0

    def add(self, file: str, marks: RecordMarks) -> None:
        if not len(marks.rows):
            return
        if not self.stretches or self.stretches[-1][1] != file:
            self.stretches.append((self.count, file))
        for name, values in vars(marks).items():
            self.columns.setdefault(name, bytearray()).extend(memoryview(values).cast("B") if values.size else b"")
        self.count += len(marks.rows)

    def marks(self) -> RecordMarks:
        types = {"questions": np.uint64, "answers": np.uint64, "rows": np.int64, "has_sketch": np.bool_}
        types |= {"asked_lengths": np.int32, "answer_lengths": np.int32, "sketches": np.uint16}
        held: dict[str, Any] = {name: np.frombuffer(self.columns.get(name, b""), kind) for name, kind in types.items()}
        held["sketches"] = held["sketches"].reshape(-1, HASHES)
        return RecordMarks(**held)

    def place(self, record: int, rows: npt.NDArray[np.int64]) -> Place:
        begins = [begin for begin, _ in self.stretches]
        name = self.stretches[int(np.searchsorted(begins, record, side="right")) - 1][1]
        return Place(name, int(rows[record]))


@dataclass(frozen=True)
class Looked:
    """What is remembered of all records, the first `held_out` of them those of validation.

    `dispensable`: by check those of training that can go: copies of earlier ones, and what is held out as well.
    """

    table: RecordTable
    held_out: int
    dispensable: Mapping[str, npt.NDArray[np.int64]]
