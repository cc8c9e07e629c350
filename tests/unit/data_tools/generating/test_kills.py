"""SIGKILL in the midst of generating, and what it leaves; support/teachers/generating_kills.py kills more often."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.teachers.generating_kills import killed_again_and_again
from support.teachers.scripted_teacher import ScriptedTeacher

from neuralchat.cli import main
from neuralchat.data_tools.generating.teaching.journal import journal_of


def test_killed_twice_it_ends_with_the_same_records_and_the_same_bill(tmp_path: Path) -> None:
    found = killed_again_and_again(tmp_path, 2, count=12)
    assert found["kills"] == 2
    assert found["records"] >= 12
    assert found["same_records"]
    assert found["billed_as_undisturbed"]
    assert found["replies_doubled"] == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ScriptedTeacher]:
    directory = tmp_path_factory.mktemp("whole")
    with ScriptedTeacher() as teacher:
        assert main(words_of(teacher, directory / "a.jsonl")) == 0
    return directory / "a.jsonl", teacher


def words_of(teacher: ScriptedTeacher, output: Path) -> list[str]:
    return ["data", "generate", "--base_url", teacher.url, "--output", str(output), "--count", "10"]


@pytest.mark.parametrize("part", [0.15, 0.4, 0.65, 0.9, 0.99])
def test_a_journal_cut_anywhere_is_gone_on_with(
    whole: tuple[Path, ScriptedTeacher], tmp_path: Path, part: float
) -> None:
    """Also in the midst of a line, as a kill while it was written may leave it."""
    content = journal_of(whole[0]).read_bytes()
    cut = content[: int(len(content) * part)]
    journal_of(tmp_path / "a.jsonl").write_bytes(cut)
    (tmp_path / "a.jsonl").write_text('{"instruction": "half a li')
    with ScriptedTeacher() as teacher:
        assert main(words_of(teacher, tmp_path / "a.jsonl")) == 0
        known = {json.loads(line).get("reply") for line in cut.split(b"\n")[:-1]} - {None}
        assert teacher.asked.total() == len(whole[1].asked) - len(known)
    assert (tmp_path / "a.jsonl").read_bytes() == whole[0].read_bytes()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{}\n", "is no journal of neuralchat data generate"),
        (b"[1]\n", "line 1 is no JSON object"),
        (None, "line 3 is not as this program wrote it"),
    ],
)
def test_what_is_no_journal_is_refused_and_left_alone(
    whole: tuple[Path, ScriptedTeacher],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: bytes | None,
    told: str,
) -> None:
    lines = journal_of(whole[0]).read_bytes().splitlines(keepends=True)
    content = line if line is not None else b"".join([*lines[:2], b'{"reply": 77}\n'])
    journal_of(tmp_path / "a.jsonl").write_bytes(content)
    with ScriptedTeacher() as teacher:
        assert main(words_of(teacher, tmp_path / "a.jsonl")) == 2
        assert teacher.asked.total() == 0
    assert told in capsys.readouterr().err
    assert journal_of(tmp_path / "a.jsonl").read_bytes() == content


def test_other_settings_are_told_one_by_one(
    whole: tuple[Path, ScriptedTeacher], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal_of(tmp_path / "a.jsonl").write_bytes(journal_of(whole[0]).read_bytes())
    with ScriptedTeacher() as teacher:
        words = [*words_of(teacher, tmp_path / "a.jsonl"), "--domain", "bees", "--seed", "5"]
        assert main(words) == 2
    told = capsys.readouterr().err
    assert 'domain was "business and computing hardware", is "bees"' in told
    assert "seed was 0, is 5" in told
