"""questions.py: what is asked where there is no terminal, and where a stream was closed before the command began."""

from __future__ import annotations

import io
import sys

import pytest

from neuralchat.console.questions import Questions


def test_lines_are_questions_also_where_nobody_sees_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for out in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\n  two  \nthree"))
        monkeypatch.setattr(sys, "stdout", out)
        assert list(Questions()) == ["one", "two", "three"]


def test_a_closed_input_has_no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert list(Questions()) == []
