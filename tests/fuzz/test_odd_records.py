"""Made-up record files of every format, in every container, some rows odd and some wrong, which is known beforehand.

Each file is made from conversations (support/odd_records): the right records must come back, and the wrong rows be
named. How many files of which formats were tried is printed: pytest -n 0 -s tests/fuzz/test_odd_records.py
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from support.fuzzing import time_limit
from support.odd_records.containers import MadeFile, made_file

from neuralchat.data.records import RecordReport, read_records
from neuralchat.errors import DataError

FILES = int(os.environ.get("NEURALCHAT_ODD_FILES", "200"))
PARTS = 4
FORMATS = {"alpaca", "question_answer", "prompt_completion", "messages", "conversations", "text"}
CONTAINERS = {".json", ".jsonl", ".csv", ".parquet"}
PACKED = {".gz", ".zst"}


class Tally:
    """What was tried so far in this process, and what came of it."""

    def __init__(self) -> None:
        self.formats: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()

    def add(self, made: MadeFile) -> None:
        self.formats[made.format] += 1
        self.endings[made.ending] += 1
        for turns in made.rows:
            self.rows["wrong" if turns is None else "right"] += 1

    def told(self) -> str:
        """One line, printed after each part; the last one has all where one process runs them."""
        listed = (", ".join(f"{name} {n}" for name, n in sorted(c.items())) for c in (self.formats, self.endings))
        return (
            f"{self.formats.total()} made-up record files, each read as it should be ({'; '.join(listed)}): "
            f"{self.rows['right']} right rows read, {self.rows['wrong']} wrong rows named"
        )


TRIED, CUT = Tally(), Tally()


def rows_named(problems: list[str], path: Path) -> set[int]:
    """The rows that messages name, such as: a.json row 3, a.json rows 1, 4-6 (4 rows)."""
    named: set[int] = set()
    for problem in problems:
        found = re.match(re.escape(str(path)) + r" rows? ([\d, -]+?)(?: \(\d+ rows\)(?:, the first)?)?: ", problem)
        assert found, problem
        for part in found[1].split(", "):
            first, _, last = part.partition("-")
            named.update(range(int(first), int(last or first) + 1))
    return named


@pytest.mark.parametrize("part", range(PARTS))
def test_made_up_files(tmp_path: Path, part: int) -> None:
    mine = Tally()
    for seed in range(part, FILES, PARTS):
        made = made_file(random.Random(seed))
        path = tmp_path / f"{seed}{made.ending}"
        path.write_bytes(made.content)
        report = RecordReport()
        with time_limit():
            records = list(read_records([path], report))
        wrong = {number for number, turns in enumerate(made.rows, start=1) if turns is None}
        right = [(number, turns) for number, turns in enumerate(made.rows, start=1) if turns is not None]
        assert [(record.source, list(record.turns)) for record in records] == [
            (f"{path} row {number}", turns) for number, turns in right
        ], (seed, report.problems)
        assert rows_named(report.problems, path) == wrong, (seed, report.problems)
        assert (report.ignored_fields, report.fatal) == (made.unused, False), seed
        if wrong:
            with pytest.raises(DataError) as caught:
                report.settle("fail")
            assert ("--on_bad_record skip" in str(caught.value)) == bool(right)
        mine.add(made)
        TRIED.add(made)
    # Nothing of what there is may be missing.
    assert mine.formats.total() == len(range(part, FILES, PARTS))
    assert set(mine.formats) == FORMATS
    assert {ending for name in mine.endings for ending in CONTAINERS | PACKED if ending in name} == CONTAINERS | PACKED
    assert min(mine.rows["right"], mine.rows["wrong"]) > 0
    print(f"\n{TRIED.told()}")


@pytest.mark.parametrize("part", range(2))
def test_made_up_files_that_are_cut(tmp_path: Path, part: int) -> None:
    """What stands before the cut is right, or the file is refused by name; nothing is made up."""
    read = 0
    for seed in range(part, FILES // 2, 2):
        rng = random.Random(seed)
        made = made_file(rng)
        path = tmp_path / f"{seed}{made.ending}"
        path.write_bytes(made.content[: rng.randrange(1, len(made.content))])
        report = RecordReport()
        with time_limit():
            records = list(read_records([path], report))
        assert all(problem.startswith(str(path)) for problem in report.problems)
        is_table = made.ending.startswith((".csv", ".tsv"))
        if is_table:
            # A table's last cell may be cut without anybody seeing it.
            records = records[:-1]
        for record in records:
            turns = made.rows[int(record.source.rpartition(" ")[2]) - 1]
            assert list(record.turns) == turns, (seed, made.ending)
        assert report.problems or is_table or len(records) <= len(made.rows)
        read += len(records)
        CUT.add(made)
    assert read > 0
    print(f"\ncut at random: {CUT.formats.total()} files; {read} rows before the cuts read in this part, none made up")
