"""data/given_records.py: rows of a Python program in the place of a file."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from support.runs import ROWS

from neuralchat.config.arguments import DataArguments
from neuralchat.data import given_records
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.prepared_data import PreparedData, prepare
from neuralchat.data.record_source import find_records
from neuralchat.errors import DataError


def prepared(tokenizer: Any, rows: Any, validation: Any = None, **more: Any) -> PreparedData:
    given = [GivenRecords("train_records", rows)]
    if validation is not None:
        given.append(GivenRecords("validation_records", validation))
        more["validation_file"] = ["validation_records"]
    return prepare(DataArguments(train_file=["train_records"], **more), tokenizer, given=given)


def test_rows_are_the_examples_of_a_file(tokenizer: Any, write_records: Callable[..., Path]) -> None:
    file = prepare(DataArguments(train_file=[str(write_records(ROWS))]), tokenizer)
    for rows in (ROWS, tuple(ROWS), datasets.Dataset.from_list(ROWS)):
        found = prepared(tokenizer, rows)
        assert found.trained_on.content_fingerprint == file.trained_on.content_fingerprint
        assert found.template.name == file.template.name
        assert {**found.counts["train"]} == {**file.counts["train"]}
        assert found.trained_on[2].source == "train_records row 3"


def test_conversations_are_seen_as_such(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
    rows = [{"messages": turns}] * 2
    assert prepared(tokenizer, rows).template.name == "chat"
    assert prepared(tokenizer, datasets.Dataset.from_list(rows)).template.name == "chat"


def test_validation_rows_and_limits(tokenizer: Any) -> None:
    found = prepared(tokenizer, ROWS, ROWS[:3], max_train_samples=4, max_eval_samples=2)
    assert found.train is not None
    assert found.validation is not None
    assert (len(found.train), len(found.validation)) == (4, 2)
    assert found.validation[1].source == "validation_records row 2"
    assert find_records(found.validation_source, ["validation_records row 2"])[0].turns[-1].content == "5"


def test_a_share_is_held_out_of_given_rows(tokenizer: Any) -> None:
    found = prepared(tokenizer, ROWS, validation_split_percentage=25)
    assert found.validation is not None
    assert len(found.validation) == 2
    assert find_records(found.validation_source, [found.validation[0].source])


def test_bad_rows_are_named(tokenizer: Any) -> None:
    rows = [*ROWS[:2], {"instruction": "a"}, "text", {"instruction": 5, "output": "b"}]
    with pytest.raises(DataError) as caught:
        prepared(tokenizer, rows)
    assert str(caught.value).splitlines()[1:-2] == [
        "  - train_records row 3: field 'output' is missing; found instruction",
        "  - train_records row 4: expected an object with fields, found str 'text'",
        "  - train_records row 5: field 'instruction' must be text, found int 5",
    ]
    assert len(prepared(tokenizer, rows, on_bad_record="skip").trained_on) == 2


class DataFrame:
    """By its name what pandas has."""

    def __len__(self) -> int:
        return 1


KINDS: list[tuple[Any, str]] = [
    ((row for row in ROWS), "found generator"),
    (map(dict, ROWS), "found map"),
    ("records.json", "found str"),
    ({"instruction": "a"}, "found a dict; of columns give .*"),
    (7, "found int"),
    (DataFrame(), r'found a DataFrame; give its to_dict\("records"\)'),
    (
        datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)),
        "found a DatasetDict; name one of its splits: train",
    ),
]


@pytest.mark.parametrize(("rows", "message"), KINDS)
def test_what_is_no_list_of_rows(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^train_records must be a list of dicts or a datasets.Dataset, {message}$"):
        GivenRecords("train_records", rows)


def test_no_rows() -> None:
    for rows in ([], datasets.Dataset.from_list([])):
        with pytest.raises(DataError, match=r"^train_records is empty$"):
            GivenRecords("train_records", rows)


def test_records_that_are_only_named_are_asked_for(tokenizer: Any, tmp_path: Path) -> None:
    """As when a run that was given records is to be repeated by a command."""
    data = DataArguments(train_file=["train_records"], validation_file=["validation_records"])
    with pytest.raises(DataError) as caught:
        prepare(data, tokenizer)
    assert str(caught.value).splitlines()[1:] == [
        f"  - {name} were given in Python; give them again: neuralchat.finetune(..., {name}=...)"
        for name in ("train_records", "validation_records")
    ]


def fingerprint(rows: Sequence[Any], name: str = "train_records") -> str:
    return GivenRecords(name, rows).fingerprint()


def test_the_fingerprint_tells_rows_apart() -> None:
    rows = [{"a": 1, "b": "é"}, {"a": 2}]
    assert fingerprint(rows) == fingerprint([{"b": "é", "a": 1}, {"a": 2}])
    assert fingerprint(rows) == fingerprint(json.loads(json.dumps(rows)))
    others = [rows[::-1], rows[:1], [rows[0], {"a": 3}], [[{"a": 1, "b": "é"}, {"a": 2}]]]
    assert len({fingerprint(other) for other in (rows, *others)} | {fingerprint(rows, "validation_records")}) == 6


def test_rows_that_no_json_can_hold_are_refused_by_name_all_the_same(tokenizer: Any) -> None:
    endless: dict[str, Any] = {"instruction": "a", "output": "b"}
    endless["output"] = endless
    mixed = {"instruction": "a", "output": "b", 3: "c"}
    with pytest.raises(DataError, match="train_records row 2: field 'output' must be text, found dict"):
        prepared(tokenizer, [mixed, endless, {"instruction": "\ud800", "output": "b"}])


def test_doctests() -> None:
    outcome = doctest.testmod(given_records)
    assert outcome.attempted >= 2
    assert outcome.failed == 0
