"""errors.py: one message for many problems, and the exit status of a user's mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neuralchat import cli, errors
from neuralchat.errors import NeuralChatError, problem_list


def test_problem_list_shows_all_of_a_few() -> None:
    assert problem_list("wrong:", ["a", "b"]) == "wrong:\n  - a\n  - b"


def test_problem_list_counts_what_it_leaves_out() -> None:
    assert problem_list("wrong:", ["a", "b", "c", "d"], shown=2) == "wrong:\n  - a\n  - b\n  ... and 2 more"
    lines = problem_list("wrong:", [str(i) for i in range(21)]).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  ... and 1 more"


def test_every_error_of_a_user_has_status_two_but_that_of_processes() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NeuralChatError)]
    assert len(kinds) == 11
    assert {kind.exit_status for kind in kinds if kind is not errors.DistributedError} == {2}
    assert errors.DistributedError.exit_status == 4


def test_a_working_directory_that_goes_away_meanwhile_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What needs it says "No such file or directory", of no file."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")

    def work() -> int:
        (tmp_path / "gone").rmdir()
        return len(os.getcwd())

    assert cli.guarded(work) == 2
    assert "the working directory cannot be used (No such file or directory): it was deleted" in capsys.readouterr().err
