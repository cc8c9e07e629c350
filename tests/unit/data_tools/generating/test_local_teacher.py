"""A model on this machine as a teacher: what waits is answered together, and the journal is that of an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.teachers.scripted_teacher import answer_to

from neuralchat.cli import main
from neuralchat.data.records import Turn
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.generation.answering import Answer
from neuralchat.inference.sampling import Sampling


def local_answer(text: str) -> Answer:
    return Answer(text, tuple(range(len(text) // 4)), True)


class ScriptedModel:
    """In the place of a Chatbot. `groups`: how many were answered together, each time."""

    name = "model-1"

    def __init__(self) -> None:
        self.groups: list[int] = []

    def question_problem(self, turns: Sequence[Turn], sampling: Sampling) -> str | None:
        return "it is too long" if "[classification]" in turns[0].content[-200:] else None

    def answers(self, conversations: Sequence[Sequence[Turn]], sampling: Sampling) -> list[Any]:
        self.groups.append(len(conversations))
        return [local_answer(answer_to(turns[0].content)) for turns in conversations]

    def tokenizer(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [0] * (len(text) // 4)}


def test_requests_are_answered_together_and_a_second_run_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel()
    monkeypatch.setattr(Chatbot, "load", lambda _name: model)
    words = ["data", "generate", "--teacher", "run", "--output", str(tmp_path / "a.jsonl"), "--count", "12"]
    assert main(words) == 0
    whole = (tmp_path / "a.jsonl").read_bytes()
    assert whole.count(b"\n") >= 12
    assert b'"teacher": "model-1"' in whole
    assert max(model.groups) > 4
    groups = len(model.groups)
    assert main(words) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == whole
    assert len(model.groups) == groups
    assert "tokens" in capsys.readouterr().out


def test_a_local_teacher_has_no_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--teacher", "run", "--output", str(tmp_path / "a.jsonl"), "--token_budget", "100"]
    assert main(["data", "generate", *words]) == 2
    assert "--token_budget: for --base_url alone" in capsys.readouterr().err
