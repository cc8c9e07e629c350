"""runs/kept_evaluation.py: figures beside a run, believed beside the manifest that they were found beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuralchat.runs import kept_evaluation as keeping
from neuralchat.runs.kept_evaluation import KeptFigure, figures_of_card, keep_evaluation, kept_evaluation


def figure(part: str = "held out", file: str = "", **more: Any) -> KeptFigure:
    known = {"measure": "right answers", "questions": 45, "share": True, "before": 0.25, "after": 0.75}
    return KeptFigure(
        part=part, file=file, **{**known, "difference": 0.5, "interval": (0.25, 0.75), "confidence": 0.96, **more}
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "neuralchat.json").write_text("{}")
    return tmp_path


def test_each_set_of_questions_has_its_latest_figures(run: Path) -> None:
    assert kept_evaluation(run) == []
    old, general, of_file = figure(after=0.5), figure("general"), figure("questions", "q.json", interval=None)
    assert keep_evaluation(run, [old]) == []
    assert keep_evaluation(run, [general, of_file]) == []
    assert keep_evaluation(run, [figure()]) == []
    assert kept_evaluation(run) == [general, of_file, figure()]


def test_a_trial_does_not_take_the_place_of_an_evaluation(run: Path) -> None:
    """Neither of the same questions, where it is told, nor on a card."""
    whole, trial, other = figure(), figure(questions=3, after=0.0), figure("questions", "t.json", questions=2)
    assert keep_evaluation(run, [other, trial]) == []
    assert figures_of_card(kept_evaluation(run)) == [trial]
    assert keep_evaluation(run, [whole]) == []
    told = keep_evaluation(run, [trial, figure("general", questions=19)])
    # Of that set alone: the other one was kept.
    assert told == [f"3 questions (held out) are a trial: the figures of 45 stay beside {run} for its model card"]
    assert kept_evaluation(run) == [other, whole, figure("general", questions=19)]
    assert figures_of_card(kept_evaluation(run)) == [whole]
    # An evaluation takes the place of a larger one.
    assert keep_evaluation(run, [figure(questions=20)]) == []
    assert figures_of_card(kept_evaluation(run)) == [figure(questions=20)]


def test_a_measure_of_some_questions_is_no_trial(run: Path) -> None:
    found = [figure(), figure(measure="numbers", questions=4)]
    assert keep_evaluation(run, found) == []
    assert figures_of_card(kept_evaluation(run)) == found


def test_of_another_training_they_say_nothing(run: Path) -> None:
    keep_evaluation(run, [figure()])
    (run / "neuralchat.json").write_text('{"other": 1}')
    assert kept_evaluation(run) == []


ODD: list[Any] = [None, True, -1, 1e999, "x", "\ud800", [], [1], [1, 2, 3], ["a", "b"], {}, {"a": 1}]


@pytest.mark.parametrize("name", ["figures", "manifest_sha256", *KeptFigure.__dataclass_fields__, "unknown"])
@pytest.mark.parametrize("value", ODD, ids=ascii)
def test_what_others_wrote_there_is_figures_or_nothing(name: str, value: Any, run: Path) -> None:
    keep_evaluation(run, [figure()])
    kept = json.loads((run / "evaluation.json").read_text())
    (kept if name in kept else kept["figures"][0])[name] = value
    (run / "evaluation.json").write_text(json.dumps(kept))
    for found in kept_evaluation(run):
        assert isinstance(found.after, int | float)
        assert all(isinstance(text, str) for text in (found.part, found.file, found.measure, found.says))
        assert found.interval is None or len(found.interval) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_what_is_no_such_file_is_nothing(text: str, run: Path) -> None:
    (run / "evaluation.json").write_text(text)
    assert kept_evaluation(run) == []


def test_why_nothing_could_be_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "why_unwritable", lambda path: f"no permission to write to {path.parent}")
    why = f"the figures are not kept beside {run} for its model card: no permission to write to {run}"
    assert keep_evaluation(run, [figure()]) == [why]
    assert not (run / "evaluation.json").exists()


def test_a_run_that_is_gone_meanwhile_is_told(run: Path) -> None:
    (run / "neuralchat.json").unlink()
    why = f"the figures are not kept beside {run} for its model card: No such file or directory"
    assert keep_evaluation(run, [figure()]) == [why]
