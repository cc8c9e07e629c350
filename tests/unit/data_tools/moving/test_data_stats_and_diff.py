"""`neuralchat data stats` counts and measures; `neuralchat data diff` tells what changed between two files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from neuralchat.cli import main
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.data_tools.moving import stats

ROWS = [
    {"instruction": f"Ask {n}.", "input": "x" if n == 3 else "", "output": "word " * (n + 1), "topic": "ab"[n % 2]}
    for n in range(10)
]
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Почему?"},
        {"role": "assistant", "content": "Потому что."},
        {"role": "user", "content": "Hm."},
        {"role": "assistant", "content": "Да.", "weight": 0},
    ]
}


def written(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_counts_and_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [written(tmp_path / "a.jsonl", ROWS), written(tmp_path / "b.jsonl", [CHAT])]
    report = tmp_path / "report.json"
    assert main(["data", "stats", *files, "--report", str(report)]) == 0
    found = json.loads(report.read_text())
    answers = [len(row["output"]) for row in ROWS] + [len("Потому что.")]
    lengths = found["lengths"]["answer characters"]
    assert (lengths["min"], lengths["max"], lengths["total"]) == (min(answers), max(answers), sum(answers))
    assert lengths["mean"] == pytest.approx(statistics.mean(answers))
    assert lengths["median"] == statistics.median(answers)
    assert found["lengths"]["turns"]["max"] == 4
    assert found["records"] == 11
    assert found["roles"] == {"user": 12, "assistant": 12, "system": 1}
    assert found["scripts"] == {"LATIN": 10, "CYRILLIC": 1}
    assert found["having"] == {
        "an input": 1, "a system text": 1, "several answers": 1, "answers that are not learned": 1
    }  # fmt: skip
    assert found["fields"]["topic"] == {"rows": 10, "values": {"a": 5, "b": 5}}
    assert found["fields"]["input"]["rows"] == 1
    assert found["kinds"] == {files[0]: "Alpaca", files[1]: "messages"}
    shown = capsys.readouterr().out
    assert "a 5, b 5" in shown
    assert "turns by role  user 12, assistant 12, system 1" in shown


def test_bad_rows_are_told_and_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "a.jsonl", [*ROWS, {"instruction": "No answer."}])
    assert main(["data", "stats", file]) == 0
    assert "1 bad row(s) are not counted" in capsys.readouterr().err
    assert main(["data", "stats", written(tmp_path / "b.jsonl", [{"instruction": "No answer."}])]) == 2


def test_tokens_are_those_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    """The tokens that the encoder of training makes of each record, counted here one by one."""
    from neuralchat.config.arguments import DataArguments
    from neuralchat.data.prepared_data import make_encoder
    from neuralchat.data.records import RecordReport, read_records
    from neuralchat.data.templates.making import make_template

    data = DataArguments(max_seq_length=60, template="alpaca")
    encoder = make_encoder(
        data, tokenizer, make_template("alpaca", tokenizer, conversations=False), encoder_decoder=False
    )
    file = written(tmp_path / "a.jsonl", ROWS)
    monkeypatch.setattr(stats, "token_counter", lambda _: stats.lengths_by(encoder))
    report = tmp_path / "report.json"
    assert main(["data", "stats", file, "--model_name_or_path", "any", "--report", str(report)]) == 0
    examples = list(encoder.encode(list(read_records([file], RecordReport())), TokenizationCounts(), RecordReport()))
    found = json.loads(report.read_text())["lengths"]
    assert found["tokens"]["total"] == sum(len(each.input_ids) for each in examples)
    assert found["learned tokens"]["total"] == sum(int(each.supervised.sum()) for each in examples)


def test_differences_by_instruction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [
        {"instruction": "Stays.", "output": "Same."},
        {"instruction": "Changes.", "output": "A long answer that is the same up to here: old."},
        {"instruction": "Goes.", "output": "Away."},
        {"instruction": "Twice.", "output": "First."},
        {"instruction": "Twice.", "output": "Second."},
        {"instruction": "Spelled.", "output": "So."},
    ]
    new = [
        {"messages": [{"role": "user", "content": "Comes."}, {"role": "assistant", "content": "Here."}]},
        {"messages": [{"role": "user", "content": "Twice."}, {"role": "assistant", "content": "Second."}]},
        {"messages": [{"role": "user", "content": "Stays."}, {"role": "assistant", "content": "Same."}]},
        {"messages": [{"role": "user", "content": "spelled. "}, {"role": "assistant", "content": "So."}]},
        {
            "messages": [
                {"role": "user", "content": "Changes."},
                {"role": "assistant", "content": "A long answer that is the same up to here: new."},
            ]
        },
    ]
    files = [written(tmp_path / "old.jsonl", old), written(tmp_path / "new.jsonl", new)]
    report = tmp_path / "report.json"
    words = ["data", "diff", *files, "--report", str(report)]
    assert main(words) == 0
    found = json.loads(report.read_text())
    assert found["counts"] == {"unchanged": 2, "added": 1, "removed": 2, "changed": 2, "input_moved": 0}
    assert [(each["row"], each["prompt"]) for each in found["added"]] == [(1, "Comes.")]
    assert [(each["row"], each["answer"]) for each in found["removed"]] == [(3, "Away."), (4, "First.")]
    assert [(each["old"]["row"], each["new"]["row"]) for each in found["changed"]] == [(6, 4), (2, 5)]
    shown = capsys.readouterr().out
    assert "row 2 -> row 5: Changes." in shown
    assert "here: old." in shown
    report.unlink()
    assert main([*words, "--exit_code"]) == 1
    assert main(["data", "diff", files[0], files[0], "--exit_code"]) == 0


def test_what_differs_beside_prompt_and_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"instruction": "Which colour has the sign?", "output": "It is red."}
    old = written(tmp_path / "old.jsonl", [{**row, "facts": ["red"]}])
    new = written(tmp_path / "new.jsonl", [{**row, "facts": ["It is red"]}])
    assert main(["data", "diff", old, new]) == 0
    assert "    other facts" in capsys.readouterr().out


def test_an_input_that_moved_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = written(tmp_path / "old.jsonl", [{"instruction": "Add.", "input": "1, 2", "output": "3"}])
    new = str(tmp_path / "new.jsonl")
    assert main(["data", "convert", old, "--to", "messages", "--output", new]) == 0
    capsys.readouterr()
    assert main(["data", "diff", old, new]) == 0
    assert "1 of the changed only have their input behind the instruction" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gone.jsonl", "a.jsonl"], "gone.jsonl does not exist"),
        (["a.jsonl", "a.jsonl", "--report", "a.jsonl"], "a.jsonl: it can be written as .json files"),
        (["a.jsonl", "a.jsonl", "--exit_cod"], "unknown flag --exit_cod; did you mean --exit_code?"),
        (["a.jsonl"], "the following arguments are required: NEW"),
    ],
)
def test_what_cannot_be_compared_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.jsonl", ROWS)
    assert main(["data", "diff", *words]) == 2
    assert told in capsys.readouterr().err
