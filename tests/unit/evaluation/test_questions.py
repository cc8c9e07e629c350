"""evaluation/questions.py: what is asked, printed and written of the answers, and what the base model is asked."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neuralchat.errors import ArgumentsError, DataError
from neuralchat.evaluation import questions as evaluation
from neuralchat.evaluation.questions import evaluate
from neuralchat.evaluation.sample_answers import spread_prompts
from neuralchat.inference.sampling_flags import Sampling, add_sampling_flags

QUESTIONS = [
    {"instruction": "Rank flag?", "output": "--lora_rank", "facts": ["--lora_rank", "8"]},
    {"instruction": "Which é?", "output": "é", "facts": ["é"]},
]


class SilentBot:
    """Gives the answers it was made with, and remembers what it was asked."""

    def __init__(self, answers: Sequence[str], before: Sequence[str] | None = None) -> None:
        self.replies = answers
        self.before = before
        self.asked: list[Any] = []
        self.trusts_remote_code: bool | None = None

    @property
    def has_base(self) -> bool:
        return self.before is not None

    @contextmanager
    def untuned(self) -> Iterator[SilentBot]:
        assert self.before is not None
        yield SilentBot(self.before)

    def answers(self, conversations: Sequence[Any], sampling: Sampling) -> list[Any]:
        self.asked += [sampling, *conversations]
        return [SimpleNamespace(text=text) for text in self.replies[: len(conversations)]]


Evaluate = Callable[..., tuple[int, SilentBot]]


@pytest.fixture
def run_evaluate(write_records: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    def run(
        rows: list[dict[str, Any]], answers: Sequence[str], before: Sequence[str] | None = None, **options: Any
    ) -> tuple[int, SilentBot]:
        bot = SilentBot(answers, before)

        def load(path: Path, *, trust_remote_code: bool, template: object, base_model: object) -> SilentBot:
            bot.trusts_remote_code = trust_remote_code
            return bot

        monkeypatch.setattr(evaluation.Chatbot, "load", load)
        parser = argparse.ArgumentParser()
        add_sampling_flags(parser)
        parser.set_defaults(**{"run": "run", "questions": str(write_records(rows)), "show": False, "output": None})
        parser.set_defaults(base_model=None, general=0, tuned_only=False)
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


def test_the_base_model_is_asked_the_same(
    run_evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answers.json"
    run_evaluate(QUESTIONS, ["--lora_rank, 8", "no idea"], ["no idea", "é"], output=str(output))
    assert capsys.readouterr().out == (
        "questions: 1 of 2 right before, 1 after (0 kept, 1 lost, 1 gained)\n"
        "1 of 2 answers state the right fact (50%)\n"
    )
    first = json.loads(output.read_text(encoding="utf-8"))[0]
    assert (first["before"], first["right_before"], first["right_after"]) == ("no idea", False, True)


def test_the_base_model_is_left_alone_where_that_is_asked_for(
    run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    run_evaluate(QUESTIONS, ["8", "é"], ["8", "é"], tuned_only=True)
    assert capsys.readouterr().out == "1 of 2 answers state the right fact (50%)\n"


def test_what_has_no_base_model_is_not_compared(
    run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "neuralchat")
    run_evaluate(QUESTIONS, ["8", "é"])
    assert capsys.readouterr().out == "1 of 2 answers state the right fact (50%)\n"
    assert caplog.messages == ["run is a whole model, with no base model beside it to compare with"]


def test_general_questions_are_counted_by_themselves(
    run_evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = [prompt.facts for prompt in spread_prompts(3)]
    right = [" ".join(fact if isinstance(fact, str) else fact[0] for fact in each) for each in facts]
    _, bot = run_evaluate(QUESTIONS, [right[0], "nothing", right[2]], right, general=3)
    assert capsys.readouterr().out == (
        "questions: 0 of 2 right before, 0 after (0 kept, 0 lost, 0 gained)\n"
        "general: 3 of 3 right before, 2 after (2 kept, 1 lost, 0 gained)\n"
        "0 of 2 answers state the right fact (0%)\n"
        "2 of 3 general answers state the right fact (67%)\n"
    )
    assert [turns[-1].content for turns in bot.asked if isinstance(turns, tuple)][-3:] == [
        prompt.instruction for prompt in spread_prompts(3)
    ]


def test_nothing_to_ask_is_refused_with_all_other_mistakes(run_evaluate: Evaluate) -> None:
    with pytest.raises(ArgumentsError, match=r"nothing to ask: --questions FILE .*\n--output .* is a directory"):
        run_evaluate(QUESTIONS, [], questions=None, output=".")
    with pytest.raises(ArgumentsError, match="--general is -1; allowed is 0 or more"):
        run_evaluate(QUESTIONS, [], general=-1)
