"""data/prepared_data.py: files of several kinds, --columns over files, texts without a prompt."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuralchat.config.arguments import DataArguments
from neuralchat.data import prepared_data
from neuralchat.data.prepared_data import prepare
from neuralchat.data.record_source import RecordSource
from neuralchat.errors import DataError

ALPACA = {"instruction": "Name a fruit.", "output": "A pear."}
CHAT = {"messages": [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "A pear."}]}
PAIR = {"q": "Name a fruit.", "a": "A pear."}


def test_files_of_several_kinds_take_one_template_and_are_told(
    tokenizer: Any, write_records: Callable[..., Path], said: list[str]
) -> None:
    alpaca, chat = str(write_records([ALPACA], "a.json")), str(write_records([CHAT], "c.json"))
    for files in ([alpaca, chat], [chat, alpaca]):
        data = prepare(DataArguments(train_file=files), tokenizer)
        assert data.template.name == "chat"
        assert data.trained_on[0].input_ids.tolist() == data.trained_on[1].input_ids.tolist()
        kinds = {alpaca: "Alpaca", chat: "messages"}
        listed = ", ".join(f"{file} {kinds[file]}" for file in files)
        assert f"train: the files hold records of several kinds ({listed}); all take the template chat" in said
    said.clear()
    prepare(DataArguments(train_file=[alpaca, alpaca]), tokenizer)
    assert not any("kinds" in text for text in said)


def test_columns_hold_over_all_files(tokenizer: Any, write_records: Callable[..., Path]) -> None:
    files = [str(write_records([ALPACA], "a.json")), str(write_records([PAIR], "q.json"))]
    data = prepare(DataArguments(train_file=files, columns=["instruction=q", "output=a"]), tokenizer)
    assert data.trained_on[0].input_ids.tolist() == data.trained_on[1].input_ids.tolist()


def test_column_that_no_record_has_is_named(tokenizer: Any, write_records: Callable[..., Path]) -> None:
    pair, alpaca = str(write_records([PAIR], "q.json")), str(write_records([ALPACA], "a.json"))
    columns = ["instruction=q", "output=a", "input=ctx"]
    with pytest.raises(DataError, match=r"--columns input=ctx: no row has a column 'ctx'; found q, a$"):
        prepare(DataArguments(train_file=[pair], columns=columns), tokenizer)
    with pytest.raises(DataError, match=r"--columns instruction=q: no row has"):
        prepare(DataArguments(train_file=[alpaca], columns=columns), tokenizer)
    # Held-out records may have the usual names.
    data = DataArguments(train_file=[pair], validation_file=[alpaca], columns=columns[:2])
    assert prepare(data, tokenizer).validation is not None


def test_columns_are_part_of_what_is_cached(tokenizer: Any, write_records: Callable[..., Path]) -> None:
    file = str(write_records([{"q": "a", "a": "b", "other": "c"}]))
    found = {
        answer: prepare(DataArguments(train_file=[file], columns=["instruction=q", f"output={answer}"]), tokenizer)
        for answer in ("a", "other")
    }
    assert found["a"].trained_on.content_fingerprint != found["other"].trained_on.content_fingerprint


def test_which_answers_are_learned_is_part_of_what_is_cached(
    tokenizer: Any, write_records: Callable[..., Path]
) -> None:
    file = str(write_records([{"messages": CHAT["messages"] * 2}]))
    counts = [
        prepare(DataArguments(train_file=[file], supervise=which), tokenizer).counts["train"]["supervised_tokens"]
        for which in ("all", "last")
    ]
    assert counts[0] == 2 * counts[1]


def test_a_csv_with_an_index_column(tokenizer: Any, tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "a.csv").write_text(",instruction,output\n0,a,b\n")
    prepare(DataArguments(train_file=[str(tmp_path / "a.csv")]), tokenizer)
    assert "train: fields that are not used: a column without a name" in said


@pytest.mark.parametrize("seed", range(3))
def test_all_parts_of_a_text_are_on_one_side(tokenizer: Any, write_records: Callable[..., Path], seed: int) -> None:
    file = str(write_records([{"text": f"{i} water boils " * (3 + 5 * i)} for i in range(8)]))
    data = DataArguments(train_file=[file], validation_split_percentage=25, dataset_seed=seed, max_seq_length=20)
    found = prepare(data, tokenizer)
    assert found.train is not None
    assert found.validation is not None
    train, held_out = ([store[i].source for i in range(len(store))] for store in (found.train, found.validation))
    assert len(set(held_out)) == 2
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == len(
        prepare(replace(data, validation_split_percentage=0), tokenizer).trained_on
    )


@pytest.mark.parametrize(
    ("has_template", "row", "told"), [(False, CHAT, True), (True, CHAT, False), (False, ALPACA, False)]
)
def test_conversations_without_a_chat_template_are_told(
    tokenizer: Any, write_records: Callable[..., Path], said: list[str], has_template: bool, row: Any, told: bool
) -> None:
    own = deepcopy(tokenizer)
    own.chat_template = tokenizer.chat_template if has_template else None
    prepare(DataArguments(train_file=[str(write_records([row]))]), own)
    assert any("the tokenizer has no chat template" in text and "--chat_template" in text for text in said) == told


def test_where_no_record_is_left_one_reason_is_not_told_forty_times(
    tokenizer: Any, write_records: Callable[..., Path]
) -> None:
    many = DataArguments(train_file=[str(write_records([ALPACA] * 40))], max_seq_length=16)
    with pytest.raises(DataError) as found:
        prepare(many, tokenizer)
    lines = str(found.value).splitlines()
    assert [line.split(": the answer (")[0].rpartition("row ")[2] for line in lines[1:6]] == list("12345")
    assert lines[6:] == ["  ... and 35 more", "Raise --max_seq_length, or shorten the records."]
    masked = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    with pytest.raises(DataError, match=r"no answer of it is to be learned$"):
        prepare(DataArguments(train_file=[str(write_records([masked], "m.json"))]), tokenizer)


def test_tokens_that_were_read_otherwise_are_not_used(
    tokenizer: Any, write_records: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version may have read the same file as other records."""
    data = DataArguments(train_file=[str(write_records([ALPACA]))])
    prepare(data, tokenizer)
    reads: list[int] = []
    tokenize = prepared_data.tokenize

    def counted(*arguments: Any) -> Any:
        reads.append(1)
        return tokenize(*arguments)

    monkeypatch.setattr(prepared_data, "tokenize", counted)
    prepare(data, tokenizer)
    assert reads == []
    monkeypatch.setattr(prepared_data, "READING", "as before")
    prepare(data, tokenizer)
    prepare(data, tokenizer)
    assert reads == [1]


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
REFUSED = {"messages": [{"role": "system", "content": "Be kind."}, *CHAT["messages"]]}
LONGER = {"messages": [*REFUSED["messages"], *CHAT["messages"]]}
TOOLS = {**CHAT, "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]}
BROKEN = {"messages": [*CHAT["messages"][:1], {"role": "assistant", "content": ""}]}


@pytest.fixture
def strict(tokenizer: Any) -> Any:
    """A tokenizer whose chat template takes no system turn."""
    other = deepcopy(tokenizer)
    other.chat_template = NO_SYSTEM + other.chat_template
    return other


def test_rows_that_the_template_refuses_are_told_together_with_the_broken_ones(
    strict: Any, write_records: Callable[..., Path]
) -> None:
    file = str(write_records([CHAT, REFUSED, REFUSED, BROKEN, LONGER, TOOLS, CHAT]))
    held_out = str(write_records([REFUSED, CHAT], "held_out.json"))
    with pytest.raises(DataError) as caught:
        prepare(DataArguments(train_file=[file], validation_file=[held_out]), strict)
    words = "the chat template refuses a conversation: System role not supported; found system, user, assistant"
    told = str(caught.value)
    assert "5 problem(s) in the records:" in told
    assert f"{file} rows 2-3, 5 (3 rows), the first: {words}" in told
    assert f"{file} row 4: field 'messages[1].content' is empty" in told
    assert f"{file} row 6: the chat template knows no tools" in told
    assert f"{held_out} row 1: {words}" in told
    assert "--template alpaca, or --chat_template FILE" in told
    assert told.count("--on_bad_record skip") == 2


def test_rows_that_the_template_refuses_can_be_skipped(
    strict: Any, write_records: Callable[..., Path], said: list[str]
) -> None:
    file = str(write_records([CHAT, REFUSED, BROKEN, CHAT]))
    for _ in ("tokenized", "from the cache"):
        data = prepare(DataArguments(train_file=[file], on_bad_record="skip"), strict)
        assert [example.source for example in data.trained_on] == [f"{file} row 1", f"{file} row 4"]
        assert data.counts["train"]["bad_rows"] == 2
        (notice,) = (text for text in said if "skipped" in text)
        assert notice.startswith("train: skipped 2 bad record(s), kept 2:")
        assert f"{file} row 2: the chat template refuses a conversation: System role not supported" in notice
        said.clear()


def test_nothing_is_left_of_rows_that_are_all_refused(strict: Any, write_records: Callable[..., Path]) -> None:
    file = str(write_records([REFUSED, LONGER]))
    with pytest.raises(DataError, match=r"no usable record is left; all were bad:\n.*rows 1-2 \(2 rows\)") as caught:
        prepare(DataArguments(train_file=[file], on_bad_record="skip"), strict)
    assert "Correct these rows" not in str(caught.value)


def test_what_is_no_file_is_told_with_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "support.json").write_text("[]")
    assert RecordSource(("suport.json", "https://host/a.json", "data/*.json", "else")).check() == [
        "suport.json does not exist; did you mean support.json?",
        "https://host/a.json is an address; download it, and name the file",
        "data/*.json does not exist; patterns are filled in by the shell only, where they stand without quotes",
        "else does not exist",
    ]
    # Of thousands only for the first: each is compared with all names of its directory.
    problems = RecordSource(("suport.json",) * 50).check()
    assert sum("did you mean" in problem for problem in problems) == 8
    assert len(problems) == 50


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a.xlsx", "; save the sheet as CSV in UTF-8"),
        ("a.txt", '{"text": "..."}'),
        ("a.zip", "; unpack it"),
        ("a", "'a'"),
    ],
)
def test_other_files_are_told_with_what_to_do(tokenizer: Any, tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / name).write_text("a")
    with pytest.raises(DataError) as caught:
        prepare(DataArguments(train_file=[str(tmp_path / name)]), tokenizer)
    assert "records may be .json, " in str(caught.value)
    assert str(caught.value).endswith(what)
