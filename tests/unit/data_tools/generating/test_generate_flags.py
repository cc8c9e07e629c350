"""What a user can do wrong with `neuralchat data generate`: told at once, all together, and nobody is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuralchat.cli import main
from neuralchat.data_tools.generating.teaching.journal import Journal, journal_of

NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["the following arguments are required: --output"]),
        (
            ["--output", "a.jsonl"],
            ["--base_url asks an endpoint, --teacher a model on this machine: one of them is needed"],
        ),
        (["--output", "a.jsonl", "--base_url", NOBODY, "--teacher", "x"], ["not both"]),
        (["--output", "a.csv", "--base_url", NOBODY], ["--output a.csv: its name must end in .jsonl"]),
        (["--output", "no/a.jsonl", "--base_url", NOBODY], ["the directory no does not exist"]),
        (
            ["--output", "a.jsonl", "--base_url", NOBODY, "--count", "0", "--critic", "9", "--temperature", "-1"],
            [
                "--count must be at least 1, found 0",
                "--critic must be from 1 to 5",
                "--temperature must not be negative",
            ],
        ),
        (
            ["--output", "a.jsonl", "--base_url", NOBODY, "--budget", "1"],
            ["--budget needs --price_prompt and --price_answer"],
        ),
        (
            ["--output", "a.jsonl", "--base_url", NOBODY, "--budget", "cheap"],
            ["it takes an amount such as 2.50, found 'cheap'"],
        ),
        (["--output", "a.jsonl", "--base_url", NOBODY, "--wordings", "3"], ["--wordings needs --documents"]),
        (
            ["--output", "a.jsonl", "--base_url", NOBODY, "--documents", ".", "--turns", "2"],
            ["--turns: not with --documents"],
        ),
        (["--output", "a.jsonl", "--base_url", NOBODY, "--domain", "  "], ["--domain is empty"]),
        (["--output", "a.jsonl", "--base_url", NOBODY], ["no server answers at http://127.0.0.1:9"]),
        (["--output", "a.jsonl", "--base_url", "ftp"], ["ftp is no address of a server"]),
        (
            ["--output", "a.jsonl", "--base_url", NOBODY, "--bugdet", "1"],
            ["unknown flag --bugdet; did you mean --budget?"],
        ),
        (["--output", "a.jsonl", "--base_url", NOBODY, "--timeout", "nan"], ["--timeout must be above 0"]),
        (
            ["--output", "a.jsonl", "--base_url", NOBODY, "--key_file", "no"],
            ["--key_file no cannot be read: No such file"],
        ),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "generate", *words]) == 2
    shown = capsys.readouterr().err
    assert [text for text in told if text not in shown] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"instruction": "Name a bus."}\n', "has 1 tasks; at least 8 are needed"),
        ('{"task": "Name a bus."}\n', "row 1: field 'instruction' must be a text that is not empty"),
        ('{"instruction": "a b c"', "row 1"),
        ('{"instruction": "a b c", "is_classification": "no"}\n', "must be true or false"),
    ],
)
def test_seed_tasks_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, told: str) -> None:
    from support.teachers.scripted_teacher import ScriptedTeacher

    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(content)
    with ScriptedTeacher() as teacher:
        words = ["--base_url", teacher.url, "--output", str(tmp_path / "a.jsonl"), "--seeds", str(seeds)]
        assert main(["data", "generate", *words]) == 2
        assert teacher.asked.total() == 0
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [seeds]


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "a.jsonl"
    output.write_text('{"instruction": "mine", "output": "mine"}\n')
    assert main(["data", "generate", "--base_url", NOBODY, "--output", str(output)]) == 2
    assert "is there, and its journal a.jsonl.journal is not" in capsys.readouterr().err
    assert "mine" in output.read_text()


def test_two_processes_do_not_write_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from support.teachers.scripted_teacher import ScriptedTeacher

    output = tmp_path / "a.jsonl"
    journal = Journal(journal_of(output), {})
    with ScriptedTeacher() as teacher:
        assert main(["data", "generate", "--base_url", teacher.url, "--output", str(output)]) == 2
    assert "another process is generating into" in capsys.readouterr().err
    journal.close()


def test_no_file_of_the_user_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.json", "seeds.jsonl"):
        Path(name).write_text("mine")
    words = ["data", "generate", "--base_url", NOBODY, "--seeds", "seeds.jsonl"]
    for more, told in (
        (["--output", "seeds.jsonl"], "--output seeds.jsonl is --seeds seeds.jsonl itself"),
        (["--output", "a.jsonl", "--report", "mine.json"], "mine.json exists already and is no report of this program"),
        (["--output", "a.jsonl", "--report", "seeds.jsonl"], "--report seeds.jsonl is --seeds seeds.jsonl itself"),
        (["--output", "a.jsonl", "--report", "a.jsonl"], "--report a.jsonl is --output or its journal"),
    ):
        assert main([*words, *more]) == 2
        assert told in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mine.json": "mine", "seeds.jsonl": "mine"}
