"""evaluation/facts.py: which answers state their facts, and what is printed and written of them."""

from __future__ import annotations

import argparse
import doctest
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neuralchat.errors import ArgumentsError, DataError
from neuralchat.evaluation import facts as evaluation
from neuralchat.evaluation.facts import evaluate, states_facts
from neuralchat.inference.sampling_flags import Sampling, add_sampling_flags

QUESTIONS = [
    {"instruction": "Rank flag?", "output": "--lora_rank", "facts": ["--lora_rank", "8"]},
    {"instruction": "Which é?", "output": "é", "facts": ["é"]},
]


@pytest.mark.parametrize(
    ("answer", "facts", "expected"),
    [
        ("Use --lora_rank; the default is 8.", ["--lora_rank", "8"], True),
        ("Use --lora_rank.", ["--lora_rank", "8"], False),
        ("USE --LORA_RANK", ["--lora_rank"], True),
        ("--lora_rank", ["--lora_rank"], True),
        ("'--lora_rank'", ["--lora_rank"], True),
        ("--lora_ranks", ["--lora_rank"], False),
        ("--lora_rank-x", ["--lora_rank"], False),
        ("x--lora_rank", ["--lora_rank"], False),
        ("it is 18", ["8"], False),
        ("it is 80", ["8"], False),
        ("see metrics.jsonl", ["json"], False),
        ("open metricsxjsonl", ["metrics.jsonl"], False),
        ("", ["8"], False),
        ("anything", [], True),
        ("Seven days.", [("7", "seven")], True),
        ("Seventeen days.", [("7", "seven")], False),
        ("red and green", ["red", ("yellow", "green")], True),
        ("red", ["red", ("yellow", "green")], False),
        ("I don\u2019t know.", ["don't know"], True),
        ("I don't know.", ["don\u2019t know"], True),
        ("中国的首都是北京。", ["北京"], True),
        ("日本の首都は東京です", ["東京"], True),
        ("한국의 수도는 서울입니다.", ["서울"], True),
        ("三加四等于7。", ["7"], True),
        ("三加四等于17。", ["7"], False),
        ("в Москве", ["москва"], False),
        ("Это Москва.", ["москва"], True),
    ],
)
def test_states_facts(answer: str, facts: list[str | tuple[str, ...]], expected: bool) -> None:
    assert states_facts(answer, facts) is expected


@pytest.mark.parametrize("answer", ["the default is 0.8", "the default is 8.5", "it is 8,000"])
def test_a_part_of_a_number_is_not_the_number(answer: str) -> None:
    assert not states_facts(answer, ["8"])


@pytest.mark.parametrize("answer", ["it is 8.", "8, of course", "(8)", "8"])
def test_a_number_before_punctuation_is_the_number(answer: str) -> None:
    assert states_facts(answer, ["8"])


def test_doctests() -> None:
    outcome = doctest.testmod(evaluation)
    assert outcome.attempted >= 2
    assert outcome.failed == 0


class SilentBot:
    """Gives the answers it was made with, and remembers what it was asked."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.replies = answers
        self.asked: list[Any] = []
        self.trusts_remote_code: bool | None = None

    def answers(self, conversations: Sequence[Any], sampling: Sampling) -> list[Any]:
        self.asked += [sampling, *conversations]
        return [SimpleNamespace(text=text) for text in self.replies]


Evaluate = Callable[..., tuple[int, SilentBot]]


@pytest.fixture
def run_evaluate(write_records: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    def run(rows: list[dict[str, Any]], answers: Sequence[str], **options: Any) -> tuple[int, SilentBot]:
        bot = SilentBot(answers)

        def load(path: Path, *, trust_remote_code: bool, template: object, base_model: object) -> SilentBot:
            bot.trusts_remote_code = trust_remote_code
            return bot

        monkeypatch.setattr(evaluation.Chatbot, "load", load)
        parser = argparse.ArgumentParser()
        add_sampling_flags(parser)
        parser.set_defaults(**{"run": "run", "questions": str(write_records(rows)), "show": False, "output": None})
        parser.set_defaults(base_model=None)
        parser.set_defaults(**options)
        return evaluate(parser.parse_args([])), bot

    return run


def test_score(run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    status, bot = run_evaluate(QUESTIONS, ["--lora_rank, 8", "no idea"], max_new_tokens=5)
    assert status == 0
    assert capsys.readouterr().out == "1 of 2 answers state the right fact (50%)\n"
    assert bot.asked[0] == Sampling(max_new_tokens=5)
    assert [[turn.content for turn in turns] for turns in bot.asked[1:]] == [["Rank flag?"], ["Which é?"]]


def test_wrong_answers_are_shown(run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    run_evaluate(QUESTIONS, ["it is 8", "é"], show=True)
    assert capsys.readouterr().out == (
        "wrong  Rank flag?\n       said: it is 8\n       facts: --lora_rank, 8\n"
        "1 of 2 answers state the right fact (50%)\n"
    )


def test_alternatives_of_a_wrong_answer_are_shown(run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": "Days?", "output": "7", "facts": [["7", "seven"], "days"]}]
    run_evaluate(rows, ["Two days."], show=True)
    assert "       facts: 7 or seven, days\n" in capsys.readouterr().out


def test_answers_are_written(run_evaluate: Evaluate, tmp_path: Path) -> None:
    run_evaluate(QUESTIONS, ["it is 8", "é"], output=str(tmp_path / "answers.json"))
    text = (tmp_path / "answers.json").read_text(encoding="utf-8")
    assert "é" in text
    assert json.loads(text) == [
        {"question": "Rank flag?", "answer": "it is 8", "facts": ["--lora_rank", "8"], "right": False},
        {"question": "Which é?", "answer": "é", "facts": ["é"], "right": True},
    ]


def test_questions_without_facts(run_evaluate: Evaluate) -> None:
    rows = [QUESTIONS[0], {"instruction": "a", "output": "b"}, {"instruction": "c", "output": "d", "facts": []}]
    with pytest.raises(DataError, match=r"2 question\(s\) have no 'facts' .*, the first is .*records\.json row 2$"):
        run_evaluate(rows, [])


def test_bad_questions(run_evaluate: Evaluate) -> None:
    with pytest.raises(DataError, match="row 2: field 'instruction' is missing"):
        run_evaluate([QUESTIONS[0], {"output": "b"}], [])


def test_output_that_cannot_be_written_is_told_before_anything_is_read(run_evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(ArgumentsError, match=r"--output .*answers\.json: the directory .*none does not exist$"):
        run_evaluate([{"output": "b"}], [], output=str(tmp_path / "none" / "answers.json"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "is a directory; name a file"), ("locked/a.json", "cannot be written: no permission to write to .*locked")],
)
def test_output_that_cannot_be_a_file_is_told_before_anything_is_read(
    run_evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    with pytest.raises(ArgumentsError, match=f"--output .* {reason}$"):
        run_evaluate([{"output": "b"}], [], output=str(tmp_path / name))


def test_remote_code_runs_only_where_it_was_asked_for(run_evaluate: Evaluate) -> None:
    assert run_evaluate(QUESTIONS, ["8", "é"])[1].trusts_remote_code is False
    assert run_evaluate(QUESTIONS, ["8", "é"], trust_remote_code=True)[1].trusts_remote_code is True


def test_impossible_sampling_is_told_before_anything_is_read(run_evaluate: Evaluate) -> None:
    with pytest.raises(ArgumentsError, match="--top_p must be above 0 and at most 1, found 0"):
        run_evaluate([{"output": "b"}], [], top_p=0)
