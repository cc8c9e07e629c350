"""Records -> groups that belong together: the same question, nearly the same words, the same value of a field.

MinHash sketches are compared exactly: two sketches that agree in enough of their numbers must agree in one whole band
of them, since those that differ are fewer than the bands. So no pair is missed, whatever the order of the records.
"""

from __future__ import annotations

import math
from array import array

import numpy as np

from neuralchat.data_tools.checking.record_table import key_digest, question_digest
from neuralchat.data_tools.checking.record_text import RecordText
from neuralchat.data_tools.near_duplicates import HASHES, THRESHOLD
from neuralchat.data_tools.wording_table import Sketches, sketches_of

SKETCHES_AT_ONCE = 256
AGREEING = math.ceil(THRESHOLD * HASHES)
# One more than the numbers that may differ.
BANDS_COMPARED = HASHES - AGREEING + 1
# So many records that share a band are compared with each other; more, and they are one group without it.
LARGEST_COMPARED = 20_000
# Of those, so many with all others at once.
MEMBERS_AT_ONCE = 16
COUPLES_AT_ONCE = 1 << 16


class KeptSketches:
    """The sketches of records (wording_table.sketches_of), made for many at once.

    Halves that agree by chance join records that need not be: one pair in a thousand million.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[int, str]] = []
        self.blocks: list[Sketches] = []
        # Of each sketch the number of its record; texts too short to be told apart have none.
        self.records = array("q")

    def add(self, record: int, text: str) -> None:
        self.waiting.append((record, text))
        if len(self.waiting) == SKETCHES_AT_ONCE:
            self.sketch()

    def sketch(self) -> None:
        sketches, long_enough = sketches_of([text for _, text in self.waiting])
        self.blocks.append(sketches[long_enough])
        self.records.extend(record for (record, _), wanted in zip(self.waiting, long_enough, strict=True) if wanted)
        self.waiting = []

    def matrix(self) -> Sketches:
        """(sketches, HASHES) uint16."""
        self.sketch()
        return np.concatenate(self.blocks)


class Groups:
    """Which of `size` records belong together: a forest whose roots name the groups."""

    def __init__(self, size: int) -> None:
        self.parents = np.arange(size, dtype=np.int64)
        # Records that were joined since too many share a band to compare them.
        self.not_compared = 0

    def root(self, record: int) -> int:
        parents = self.parents
        while parents[record] != record:
            parents[record] = parents[parents[record]]
            record = int(parents[record])
        return record

    def join(self, first: int, second: int) -> None:
        one, other = self.root(first), self.root(second)
        if one != other:
            self.parents[max(one, other)] = min(one, other)

    def roots(self, records: np.ndarray | None = None) -> np.ndarray:
        """The root of each record, or of these."""
        found = self.parents if records is None else self.parents[records]
        while not np.array_equal(above := self.parents[found], found):
            found = above
        return found


class GroupedRecords:
    """Takes records one after another; `finish` says which belong together."""

    def __init__(self, *, near: bool) -> None:
        self.count = 0
        self.sketches = KeptSketches() if near else None
        # Hash of a question, or of a field's value -> the first record with it.
        self.first: dict[bytes, int] = {}
        self.joined = array("q")
        self.not_compared = 0
        # Of each record what its question is, in 8 bytes, to order groups by what they hold.
        self.keys = bytearray()

    def add(self, text: RecordText, group: str | None) -> None:
        """`group`: the value of the field that keeps records together; None for a record of its own."""
        number = self.count
        self.count += 1
        question = question_digest(text)
        self.keys += question
        names = (
            [question] if group is None else [question, key_digest(f"group {group}".encode("utf-8", "surrogatepass"))]
        )
        known = [first for name in names if (first := self.first.setdefault(name, number)) != number]
        for first in known:
            self.joined.extend((first, number))
        if self.sketches is not None:
            self.sketches.add(number, text.whole)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """(the group of each record, named by a record of it; the keys of the questions as numbers)."""
        groups = Groups(self.count)
        for first, second in np.frombuffer(self.joined, np.int64).reshape(-1, 2).tolist() if self.joined else ():
            groups.join(first, second)
        if self.sketches is not None:
            join_near(groups, self.sketches.matrix(), np.asarray(self.sketches.records, dtype=np.int64))
        self.not_compared = groups.not_compared
        return groups.roots(), np.frombuffer(bytes(self.keys), ">u8")


def join_near(groups: Groups, sketches: np.ndarray, records: np.ndarray) -> None:
    """Join all records whose sketches agree in AGREEING numbers or more."""
    for columns in np.array_split(np.arange(HASHES), BANDS_COMPARED):
        order, starts, sizes = alike_in(sketches[:, columns])
        # Most that share a band are two.
        couples = starts[sizes == 2]
        join_couples(groups, sketches, records, np.stack([order[couples], order[couples + 1]], axis=1))
        for start, size in zip(starts[sizes > 2].tolist(), sizes[sizes > 2].tolist(), strict=True):
            join_members(groups, sketches, records, order[start : start + size])


def alike_in(band: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(order of the rows of a matrix in which the same ones are neighbours, where each of them starts, how many)."""
    rows = np.ascontiguousarray(band).view(np.dtype((np.void, band.shape[1] * band.itemsize))).ravel()
    order = np.argsort(rows, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], rows[order[1:]] != rows[order[:-1]]))) if len(order) else order
    return order, starts, np.diff(np.append(starts, len(order)))


def join_couples(groups: Groups, sketches: np.ndarray, records: np.ndarray, couples: np.ndarray) -> None:
    roots = groups.roots()
    apart = couples[roots[records[couples[:, 0]]] != roots[records[couples[:, 1]]]]
    for start in range(0, len(apart), COUPLES_AT_ONCE):
        some = apart[start : start + COUPLES_AT_ONCE]
        agreeing = (sketches[some[:, 0]] == sketches[some[:, 1]]).sum(axis=1)
        for one, other in records[some[agreeing >= AGREEING]].tolist():
            groups.join(one, other)


def join_members(groups: Groups, sketches: np.ndarray, records: np.ndarray, members: np.ndarray) -> None:
    """Join those of `members`, which share a band, that agree in enough numbers."""
    roots = groups.roots(records[members])
    if (roots == roots[0]).all():
        return
    if len(members) > LARGEST_COMPARED:
        groups.not_compared = max(groups.not_compared, len(members))
        for record in records[members[1:]].tolist():
            groups.join(int(records[members[0]]), record)
        return
    # Those of one group stand together, and are compared with the others only.
    members = members[np.argsort(roots, kind="stable")]
    for start in range(0, len(members) - 1, MEMBERS_AT_ONCE):
        roots = groups.roots(records[members[start:]])
        some = np.arange(min(MEMBERS_AT_ONCE, len(roots)))
        others = np.flatnonzero(roots != roots[0]) if (roots[some] == roots[0]).all() else np.arange(len(roots))
        own, rest = sketches[members[start + some]], sketches[members[start + others]]
        agreeing = (own[:, None, :] == rest[None, :, :]).sum(axis=2, dtype=np.int16)
        for one, other in np.argwhere(agreeing >= AGREEING).tolist():
            groups.join(int(records[members[start + one]]), int(records[members[start + others[other]]]))
