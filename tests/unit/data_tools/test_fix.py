"""`neuralchat data check --fix`: what has one right answer is mended, the log says all of it, and it can be undone."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import pytest

from neuralchat.cli import main
from neuralchat.data_tools import fixed_file, fixes
from neuralchat.data_tools.fixed_file import restored

GOOD = {"instruction": "Why does a laptop have a battery?", "output": "It works for some hours without a socket."}
# What is given -> what is written; None: it is left out.
ROWS: list[tuple[Any, Any]] = [
    (GOOD, GOOD),
    (GOOD, None),
    ({**GOOD, "input": "<noinput>", "id": "<noinput>"}, {**GOOD, "input": "", "id": "<noinput>"}),
    (
        {"instruction": "Is it heavy? &lt;1 kg", "output": "It isn\u00e2\u20ac\u2122t hea\u200bvy.</s>\n<|endoftext|>"},
        {"instruction": "Is it heavy? <1 kg", "output": "It isn\u2019t heavy."},
    ),
    ({"instruction": "", "output": "A row that no record can be made of."}, None),
    (
        {"instruction": "Name a bird.", "output": "A wren.\n###\n12. Instruction: Name a fish.\n12. Input:\nNone"},
        {"instruction": "Name a bird.", "output": "A wren."},
    ),
    # All of it is debris: nothing would be left.
    ({"instruction": "Name a tree.", "output": "</s>"}, {"instruction": "Name a tree.", "output": "</s>"}),
    ({"instruction": "What is held out?", "output": "This is."}, None),
    (
        {"instruction": "Name a key.", "output": "ghp_" + "a1B2" * 9},
        {"instruction": "Name a key.", "output": "ghp_" + "a1B2" * 9},
    ),
]
TALK = [{"role": "user", "content": "Hi &amp; ho</s>"}, {"role": "assistant", "content": "Ho.</s>"}]
MENDED = [{"role": "user", "content": "Hi & ho</s>"}, {"role": "assistant", "content": "Ho."}]


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fix(directory: Path, *words: str) -> int:
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row, _ in ROWS))
    (directory / "talks.json").write_text(json.dumps([{"messages": TALK, "tags": ["&amp;"]}]))
    (directory / "held_out.jsonl").write_text(json.dumps({"instruction": "What is held out?", "output": "That is."}))
    held_out = ["--validation_file", str(directory / "held_out.jsonl")]
    return main(
        ["data", "check", str(directory / "rows.jsonl"), *held_out, "--fix", str(directory / "clean.jsonl"), *words]
    )


def test_rows_are_mended_or_left_out_and_can_be_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fix(tmp_path) == 1
    written, log = lines(tmp_path / "clean.jsonl"), lines(tmp_path / "clean.changes.jsonl")
    assert written == [row for _, row in ROWS if row is not None]
    assert list(restored(written, log)) == [row for row, _ in ROWS]
    told = capsys.readouterr().out
    assert "6 of 9 rows; texts changed: " in told
    for what in (
        "1 html_entity",
        "1 special_token",
        "1 no_input_marker",
        "1 task_list_echo",
        "1 mojibake",
        "1 leakage",
    ):
        assert what in told
    assert {(entry["row"], entry["check"]) for entry in log if "path" not in entry} == {
        (2, "exact_duplicate"),
        (5, "structure"),
        (8, "leakage"),
    }
    # What was mended is not found again; what a person has to decide is.
    capsys.readouterr()
    assert main(["data", "check", str(tmp_path / "clean.jsonl"), "--fail_on", "never"]) == 0
    told = capsys.readouterr().out
    assert "secret (1)" in told
    assert not any(f"{name} (" in told for name in ("mojibake", "control_character", "no_input_marker", "structure"))


def test_turns_are_mended_by_their_roles_and_kinds_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fix(tmp_path, "--fix", str(tmp_path / "rows.clean.jsonl"))
    talks, clean = str(tmp_path / "talks.json"), str(tmp_path / "clean.jsonl")
    assert main(["data", "check", talks, "--fix", clean]) == 1
    written, log = lines(tmp_path / "clean.jsonl"), lines(tmp_path / "clean.changes.jsonl")
    assert written == [{"messages": MENDED, "tags": ["&amp;"]}]
    assert list(restored(written, log)) == [{"messages": TALK, "tags": ["&amp;"]}]
    other = str(tmp_path / "other.jsonl")
    assert main(["data", "check", talks, str(tmp_path / "rows.jsonl"), "--fix", other]) == 2
    assert "talks.json messages" in capsys.readouterr().err
    assert not Path(other).exists()


def test_a_file_that_is_clean_is_written_as_it_is(tmp_path: Path) -> None:
    rows = [
        GOOD,
        {"instruction": "Name a café.", "output": "À la carte, n° 5 \u2013 \u201cna\u00efve\u201d.", "score": 0.5},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert main(["data", "check", str(tmp_path / "rows.json"), "--fix", str(tmp_path / "clean.jsonl")]) == 0
    assert lines(tmp_path / "clean.jsonl") == rows
    assert (tmp_path / "clean.changes.jsonl").read_text() == ""


def test_nothing_is_overwritten_and_all_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("clean.jsonl", "clean.changes.jsonl"):
        (tmp_path / name).write_text("mine")
    assert fix(tmp_path) == 2
    told = capsys.readouterr().err
    assert told.count("exists already; name a new file, nothing is overwritten") == 2
    assert fix(tmp_path, "--fix", str(tmp_path / "nowhere" / "clean.json")) == 2
    told = capsys.readouterr().err
    assert "a .jsonl file is written; found '.json'" in told
    assert "nowhere does not exist" in told
    assert {path.name: path.read_text() for path in tmp_path.glob("clean*")} == {
        "clean.jsonl": "mine",
        "clean.changes.jsonl": "mine",
    }


def test_nothing_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fixed_file, "fixed", no_space)
    assert fix(tmp_path) != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held_out.jsonl", "rows.jsonl", "talks.json"]


@pytest.mark.parametrize("module", [fixes, fixed_file])
def test_docstring_examples(module: Any) -> None:
    assert doctest.testmod(module) != (0, 0)
    assert doctest.testmod(module).failed == 0
