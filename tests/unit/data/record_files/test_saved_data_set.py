"""data/record_files/saved_data_set.py: directories that datasets has saved, against what was saved."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.fuzzing import only_problem, time_limit, values_of

from neuralchat.config.arguments import DataArguments
from neuralchat.data.record_files import read_rows
from neuralchat.data.record_source import RecordSource, sources, unread_parts
from neuralchat.data.records import RecordReport
from neuralchat.errors import DataError

datasets = pytest.importorskip("datasets")
ROWS = [{"question": f"Where is room {number}?", "answer": f"On floor {number}."} for number in range(7)]


def saved(directory: Path, rows: list[dict[str, Any]] = ROWS, shards: int = 3) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(directory, num_shards=shards)
    return directory


def parts(directory: Path, **rows: list[dict[str, Any]]) -> Path:
    datasets.DatasetDict({name: datasets.Dataset.from_list(own) for name, own in rows.items()}).save_to_disk(directory)
    return directory


def test_rows_of_all_files_are_those_that_were_saved(tmp_path: Path) -> None:
    rows = list(read_rows(saved(tmp_path / "one")))
    assert values_of(rows) == ROWS
    assert [row.number for row in rows] == list(range(1, 8))


def test_chosen_rows_in_their_order(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).select([5, 2, 2]).save_to_disk(tmp_path / "one")
    assert values_of(list(read_rows(tmp_path / "one"))) == [ROWS[5], ROWS[2], ROWS[2]]


def test_a_source_of_files_and_directories(tmp_path: Path) -> None:
    directory = saved(tmp_path / "one")
    file = tmp_path / "a.json"
    file.write_text(json.dumps(ROWS[:1]))
    train, _ = sources(DataArguments(train_file=[str(directory), str(file)]))
    report = RecordReport()
    assert [record.source for record in train.records(report)] == [
        *(f"{directory} row {number}" for number in range(1, 8)),
        f"{file} row 1",
    ]
    assert report.problems == []
    before = train.fingerprint()
    saved(tmp_path / "other", [{**ROWS[0], "answer": "On another floor."}, *ROWS[1:]])
    (tmp_path / "other" / "data-00000-of-00003.arrow").replace(directory / "data-00000-of-00003.arrow")
    assert train.fingerprint() != before


def test_of_several_data_sets_that_of_training_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    directory = parts(tmp_path / "all", test=ROWS[5:], train=ROWS[:5])
    source = RecordSource((str(directory),))
    assert source.check() == []
    assert [record.turns[0].content for record in source.records(RecordReport())] == [r["question"] for r in ROWS[:5]]
    assert unread_parts(source) == [f"train: {directory}: its data set train is read; not used: test"]
    assert unread_parts(RecordSource((str(directory / "test"),))) == []
    assert values_of(list(read_rows(directory / "test"))) == ROWS[5:]
    # The only one is meant, whatever its name.
    alone = parts(tmp_path / "alone", rows=ROWS)
    assert values_of(list(read_rows(alone))) == ROWS
    assert unread_parts(RecordSource((str(alone),))) == []


def test_which_data_set_is_meant_must_be_clear(tmp_path: Path) -> None:
    directory = parts(tmp_path / "all", train=ROWS[:5], test=ROWS[5:])
    others = parts(tmp_path / "others", a=ROWS, b=ROWS)
    with pytest.raises(DataError) as caught:
        sources(DataArguments(train_file=[str(others)], validation_file=[str(directory)]))
    assert str(caught.value).splitlines()[1:] == [
        f"  - {others} holds the data sets a, b; name one: {others / 'a'}",
        f"  - {directory} holds the data sets train, test; name the one to hold out: {directory / 'test'}",
    ]


def test_directories_that_hold_no_data_set(tmp_path: Path) -> None:
    for name in ("b.jsonl.gz", "a.parquet", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    (problem,) = RecordSource((str(tmp_path),)).check()
    assert problem == f"{tmp_path} is a directory; name the files in it: {tmp_path}/a.parquet {tmp_path}/b.jsonl.gz"
    (tmp_path / "empty").mkdir()
    (problem,) = RecordSource((str(tmp_path / "empty"),)).check()
    assert problem == f"{tmp_path / 'empty'} is a directory; name the files in it"


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ("{", "cannot be read as a data set: state.json: it is not JSON"),
        ("[]", "cannot be read as a data set: state.json must hold an object"),
        ("{}", "is no data set that can be read: state.json names no files in it"),
        ('{"_data_files": [{"filename": "../../secret.arrow"}]}', "is no data set that can be read: state.json names "
         "no files in it"),
        ('{"_data_files": [7]}', "is no data set that can be read: state.json names no files in it"),
        ('{"_data_files": 7}', "is no data set that can be read: state.json names no files in it"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "lacks files of its data set: gone.arrow"),
        ('{"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [{"filename": "i.arrow"}]}',
         "was saved by an early version of datasets; load it and save it again"),
    ],
)  # fmt: skip
def test_states_that_are_none(tmp_path: Path, state: str, problem: str) -> None:
    (tmp_path / "state.json").write_text(state)
    assert RecordSource((str(tmp_path),)).check() == [f"{tmp_path} {problem}"]


def test_a_directory_without_a_data_set_is_told_with_what_is_allowed(tmp_path: Path) -> None:
    problem = only_problem(list(read_rows(tmp_path)))
    assert problem.what.startswith("is a directory without a data set in it; records may be .json, ")
    assert problem.what.endswith(" files, or a directory that save_to_disk of datasets wrote")


def test_a_damaged_file_of_several_is_named(tmp_path: Path) -> None:
    directory = saved(tmp_path / "one")
    (directory / "data-00001-of-00003.arrow").write_bytes(b"not arrow at all")
    rows = list(read_rows(directory))
    assert values_of(rows[:3]) == ROWS[:3]
    problem = only_problem(rows[3:])
    assert problem.what.startswith("data-00001-of-00003.arrow: is not an Arrow file after row 0: ")
    assert problem.fatal


@pytest.mark.parametrize("name", ["train/state.json", "train/data-00000-of-00001.arrow"])
def test_what_never_ends_is_not_read(tmp_path: Path, name: str) -> None:
    directory = parts(tmp_path / "many", train=ROWS)
    for trap in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (directory / name).unlink()
        trap(directory / name)
        with time_limit():
            problem = only_problem(list(read_rows(directory)))
        assert "not a file" in problem.what
        assert Path(name).name in problem.what
