"""`neuralchat data convert`: there and back says the same to finetune's reader, and nothing is lost without a word."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuralchat.cli import main
from neuralchat.data.records import RECORD_KINDS, RecordReport, read_records
from neuralchat.data_tools.moving.as_kind import TARGET_KINDS
from neuralchat.data_tools.moving.flags import TARGET_NAMES

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.zst", ".json.zst")
TEXTS = st.text(alphabet="ab ,;|\t\"'\n\r\\{}[]:é漢\u2028😀", min_size=1, max_size=12).filter(str.strip)
EXCHANGES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)
TOOLS = [{"type": "function", "function": {"name": "sum", "parameters": {"type": "object", "properties": {}}}}]


def written(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def said(path: Path | str) -> list[Any]:
    """What training sees: turns, tools and facts, by the reader of finetune."""
    report = RecordReport()
    found = [
        [
            [t.role, t.content, t.context, t.trained, t.reasoning, list(t.tool_calls), dict(t.extra)]
            for t in record.turns
        ]
        + [list(record.tools), record.facts]
        for record in read_records([path], report)
    ]
    assert not report.problems
    return found


def convert(file: Path | str, output: Path, *more: str) -> Path:
    assert main(["data", "convert", str(file), "--output", str(output), *more]) == 0
    return output


def conversation(exchanges: Sequence[tuple[str, str]], system: str) -> dict[str, Any]:
    turns = [{"role": "system", "content": system}] if system else []
    for question, answer in exchanges:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


@given(
    rows=st.lists(st.builds(conversation, EXCHANGES, st.just("") | TEXTS), min_size=1, max_size=4),
    to=st.sampled_from([name for name in TARGET_NAMES if name != "text"]),
    ending=st.sampled_from(ENDINGS),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_there_and_back_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], to: str, ending: str
) -> None:
    directory = tmp_path_factory.mktemp("there")
    there = convert(written(directory / "a.jsonl", rows), directory / f"there{ending}", "--to", to)
    kinds = RecordReport()
    list(read_records([there], kinds))
    assert set(kinds.kinds.values()) == {TARGET_KINDS[to].kind}
    back = convert(there, directory / "back.jsonl", "--to", "messages")
    assert said(there) == said(back) == said(directory / "a.jsonl")
    # As fields, not only as what is read of them.
    assert [json.loads(line) for line in back.read_text().splitlines()] == rows


RICH = {
    "messages": [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "Hm.", "weight": 0},
        {"role": "user", "content": "Please."},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "It is a sum.",
            "tool_calls": [{"id": "c1", "function": {"name": "sum", "arguments": {"a": [2, 2.5], "ü": None}}}],
        },
        {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "sum"},
        {"role": "assistant", "content": "4"},
    ],
    "tools": TOOLS,
    "facts": ["4", ["four", "vier"]],
}
PLAIN = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("to", ["messages", "sharegpt", "prompt_completion"])
def test_turns_keep_calls_reasoning_and_weights(tmp_path: Path, to: str, ending: str) -> None:
    rows = [RICH] if to == "prompt_completion" else [PLAIN, RICH, PLAIN]
    given = written(tmp_path / "a.jsonl", rows)
    if to == "prompt_completion" and ending == ".csv":
        # Its lists of turns are read from no text.
        assert main(["data", "convert", given, "--to", to, "--output", str(tmp_path / "no.csv")]) == 2
        assert not (tmp_path / "no.csv").exists()
        return
    there = convert(given, tmp_path / f"there{ending}", "--to", to)
    assert said(there) == said(given)
    assert said(convert(there, tmp_path / "back.json", "--to", "messages")) == said(given)


def test_what_others_read_of_a_table(tmp_path: Path) -> None:
    """Not by this project's reader: by the csv module and pyarrow."""
    rows = [
        {"instruction": 'Say "a,b".', "input": "", "output": "a,\nb\r\nc", "id": 1},
        {"instruction": "Name it.", "input": "x", "output": "y", "id": 2, "tags": ["p", "q"]},
    ]
    given = written(tmp_path / "a.jsonl", rows)
    with convert(given, tmp_path / "a.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["instruction", "input", "output", "id", "tags"],
            ['Say "a,b".', "", "a,\nb\r\nc", "1", ""],
            ["Name it.", "x", "y", "2", '["p", "q"]'],
        ]
    table = pyarrow.parquet.read_table(convert(given, tmp_path / "a.parquet")).to_pylist()
    assert table == [{**rows[0], "tags": None}, rows[1]]
    assert said(tmp_path / "a.parquet") == said(tmp_path / "a.csv") == said(given)
    chat = pyarrow.parquet.read_table(
        convert(written(tmp_path / "m.jsonl", [PLAIN]), tmp_path / "m.parquet")
    ).to_pylist()
    assert chat == [PLAIN]


def test_an_input_follows_its_instruction_and_that_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = written(tmp_path / "a.jsonl", [{"instruction": "Add.", "input": "1, 2", "output": "3"}])
    convert(given, tmp_path / "b.jsonl", "--to", "messages")
    assert json.loads((tmp_path / "b.jsonl").read_text())["messages"][0]["content"] == "Add.\n\n1, 2"
    assert "of 1 record(s) the input now follows the instruction" in capsys.readouterr().err
    convert(given, tmp_path / "c.jsonl", "--to", "question_answer")
    assert json.loads((tmp_path / "c.jsonl").read_text()) == {"question": "Add.", "context": "1, 2", "answer": "3"}


def test_other_fields_stay_beside_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"frage": "Why?", "antwort": "So.", "id": 7, "meta": {"from": "x"}}
    given = written(tmp_path / "a.jsonl", [row])
    convert(
        given, tmp_path / "b.jsonl", "--to", "messages", "--columns", "instruction=frage,output=antwort", "--drop", "id"
    )
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    assert json.loads((tmp_path / "b.jsonl").read_text()) == {"messages": turns, "meta": {"from": "x"}}
    told = capsys.readouterr().err
    assert "kept beside the records, where finetune does not read them: meta (1 rows)" in told
    assert "left out by --drop: id (1 rows)" in told
    # Without --to the fields get their names too.
    convert(given, tmp_path / "c.csv", "--columns", "instruction=frage,output=antwort")
    assert said(tmp_path / "c.csv")[0][0][:2] == ["user", "Why?"]


@pytest.mark.parametrize(
    ("row", "words", "told"),
    [
        (RICH, ["--to", "alpaca"], "has an answer that is not to be learned (weight 0), which needs turns"),
        ({"text": "Once."}, ["--to", "messages"], "is a text without a question; it cannot become a messages record"),
        (PLAIN, ["--to", "text"], "asks something; it cannot become a text record"),
        (
            {"messages": [{"role": "user", "content": "Hi", "score": 3}, {"role": "assistant", "content": "So."}]},
            ["--to", "sharegpt"],
            "would lose messages[].score; if it may be lost, say so: --drop 'messages[].score'",
        ),
        ({**PLAIN, "input": "x"}, ["--to", "alpaca"], "has a field 'input' of its own"),
        (
            {"instruction": "Is it a number?", "output": "NaN"},
            ["--output", "b.csv"],
            "'NaN', which tables write for nothing",
        ),
        ({"instruction": "Fill.", "input": "null", "output": "x"}, ["--output", "b.csv"], "b.csv would not say what"),
        ({"instruction": "Go.", "output": "x"}, ["--unpaired", "c.jsonl"], "--unpaired is for --to preference"),
        (
            {"instruction": "Go.", "output": "x"},
            ["--output", "a.jsonl"],
            "is the file a.jsonl itself, which is read; name another file",
        ),
        ({"instruction": "Go.", "output": "x"}, ["--output", "b.parquet.gz"], "it can be written as .jsonl"),
    ],
)
def test_what_cannot_be_held_is_refused_by_row_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    row: dict[str, Any],
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.jsonl", [row])
    output = [] if "--output" in words else ["--output", "b.jsonl"]
    assert main(["data", "convert", "a.jsonl", *output, *words]) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_files_of_several_kinds_need_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        written(tmp_path / "a.jsonl", [PLAIN]),
        written(tmp_path / "b.jsonl", [{"instruction": "Why?", "output": "So."}]),
    ]
    words = ["data", "convert", *files, "--output", str(tmp_path / "c.jsonl")]
    assert main(words) == 2
    assert "the files hold records of several kinds" in capsys.readouterr().err
    assert main([*words, "--to", "sharegpt"]) == 0
    assert len(said(tmp_path / "c.jsonl")) == 2


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    given = written(tmp_path / "a.jsonl", [PLAIN, RICH])
    for ending in (".jsonl.gz", ".json.zst", ".parquet"):
        first, second = (convert(given, tmp_path / f"{name}{ending}") for name in "bc")
        assert first.read_bytes() == second.read_bytes()


def test_every_kind_of_record_is_a_target() -> None:
    assert tuple(TARGET_KINDS) == TARGET_NAMES
    assert {target.kind for target in TARGET_KINDS.values()} == set(RECORD_KINDS)
