"""runs/kept_evaluation.py: figures beside a run, believed beside the manifest that they were found beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuralchat.runs import kept_evaluation as keeping
from neuralchat.runs.kept_evaluation import KeptFigure, keep_evaluation, kept_evaluation


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
    assert keep_evaluation(run, [old]) is None
    assert keep_evaluation(run, [general, of_file]) is None
    assert keep_evaluation(run, [figure()]) is None
    assert kept_evaluation(run) == [general, of_file, figure()]


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
    assert keep_evaluation(run, [figure()]) == f"no permission to write to {run}"
    assert not (run / "evaluation.json").exists()
