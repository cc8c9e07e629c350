"""What only shows between records: copies, other answers to the same question, records of validation in training.

Hashes of texts are kept, never texts: some hundred bytes per record, and about 3.5 kB with near duplicates.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator

import numpy as np

from neuralchat.data_tools.findings import CheckHelp, Place, RowFindings
from neuralchat.data_tools.near_duplicates import WordingIndex, sketch_of
from neuralchat.data_tools.record_text import RecordText

EXACT = CheckHelp("exact_duplicate", "warning", "the same record again; keep one")
NEAR = CheckHelp("near_duplicate", "warning", "nearly the same words (not: the same meaning); keep one")
CONTRADICTION = CheckHelp(
    "other_answer", "warning", "an earlier row answers the same question otherwise; keep the better"
)
LEAKAGE = CheckHelp("leakage", "error", "the question is in the validation file too; its figures say nothing then")
NEAR_LEAKAGE = CheckHelp("near_leakage", "warning", "nearly a record of the validation file")
LENGTHS = CheckHelp(
    "length_balance", "note", "a few records hold most of the text; --supervise, split or leave some out"
)
# Of answers: far outside of what the others have, by quartiles of the logarithm, as box plots draw them.
OUTLIER = CheckHelp("extreme_length", "note", "far longer than the other answers")
OUTLIER_RANGES = 3.0
FEWEST_FOR_QUARTILES = 50
LONGEST_PART = 0.01
MOST_SHARE = 0.25


def key_of(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


class RecordsSoFar:
    """Takes records one after another, those of validation first, and tells of each what an earlier one has too."""

    def __init__(self, findings: RowFindings, *, near: bool) -> None:
        self.findings = findings
        self.files: list[str] = []
        # Question -> (answer, file, row) of the first record with it.
        self.first: dict[bytes, tuple[bytes, int, int]] = {}
        # Questions with their further answers.
        self.others: set[bytes] = set()
        self.held_out: dict[bytes, tuple[int, int]] = {}
        self.near = WordingIndex() if near else None
        self.near_held_out = WordingIndex() if near else None
        # Of each record its place, and how long its answers are in characters.
        self.rows, self.file_numbers, self.lengths = array("q"), array("i"), array("q")

    def file_number(self, place: Place) -> int:
        if not self.files or self.files[-1] != place.file:
            self.files.append(place.file)
        return len(self.files) - 1

    def place(self, file: int, row: int) -> Place:
        return Place(self.files[file], row)

    def hold_out(self, text: RecordText, place: Place) -> None:
        file = self.file_number(place)
        self.held_out.setdefault(key_of(asked_key(text)), (file, place.row or 0))
        if self.near_held_out:
            self.near_held_out.add(sketch_of(text.whole), (file, place.row or 0))

    def look_at(self, text: RecordText, place: Place) -> None:
        file, row = self.file_number(place), place.row or 0
        self.rows.append(row)
        self.file_numbers.append(file)
        self.lengths.append(len(text.answer))
        question, answer = key_of(asked_key(text)), key_of(text.answer_key)
        # It takes most of the time of a record.
        sketch = sketch_of(text.whole) if self.near else None
        if question in self.held_out:
            self.findings.add(LEAKAGE, place, f"as {self.place(*self.held_out[question])}")
        elif self.near_held_out and (there := self.near_held_out.like(sketch)):
            self.findings.add(NEAR_LEAKAGE, place, f"nearly {self.place(*there)}")
        is_copy = self.compare(question, answer, text, place, file, row)
        if self.near and not is_copy:
            if there := self.near.like(sketch):
                self.findings.add(NEAR, place, f"nearly {self.place(*there)}")
            self.near.add(sketch, (file, row))

    def compare(self, question: bytes, answer: bytes, text: RecordText, place: Place, file: int, row: int) -> bool:
        """Whether an earlier record has the same question; what that means is told."""
        known = self.first.get(question)
        if known is None:
            self.first[question] = (answer, file, row)
            return False
        there = f"as {self.place(*known[1:])}"
        both = key_of(text.prompt_key + "\0" + text.answer_key)
        if known[0] == answer or both in self.others:
            self.findings.add(EXACT, place, there)
        else:
            self.others.add(both)
            self.findings.add(CONTRADICTION, place, there)
        return True

    def finish(self) -> None:
        """What shows when all have been seen."""
        for place, length in self.outliers():
            self.findings.add(OUTLIER, place, f"{length:,} characters in its answers")
        lengths = np.sort(np.asarray(self.lengths))
        longest = lengths[-max(1, int(len(lengths) * LONGEST_PART)) :]
        if len(lengths) >= FEWEST_FOR_QUARTILES and longest.sum() > MOST_SHARE * max(1, lengths.sum()):
            share = longest.sum() / lengths.sum()
            seen = f"{len(longest)} of {len(lengths)} records hold {share:.0%} of the characters of answers"
            self.findings.add(LENGTHS, Place(self.files[-1], None), seen)

    def outliers(self) -> Iterator[tuple[Place, int]]:
        lengths = np.asarray(self.lengths)
        if len(lengths) < FEWEST_FOR_QUARTILES:
            return
        logs = np.log1p(lengths)
        low, high = np.quantile(logs, (0.25, 0.75))
        # Answers of much the same length have hardly a range.
        far = logs > high + OUTLIER_RANGES * max(high - low, 0.5)
        for index in np.flatnonzero(far):
            yield self.place(self.file_numbers[index], self.rows[index]), int(lengths[index])


def asked_key(text: RecordText) -> str:
    """What makes two records ask the same; texts without a prompt ask what they say."""
    return text.prompt_key or text.answer_key
