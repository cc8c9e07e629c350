"""library/run.py, and runs/summary.py below it: a run's directory as Python sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuralchat.errors import RunDirectoryError
from neuralchat.library.run import Run
from neuralchat.runs.results import RunResults
from neuralchat.runs.summary import one_line, summary

FIXTURE = Path(__file__).parents[2] / "fixtures" / "run_of_0_1" / "run"


def test_what_a_run_says() -> None:
    run = Run.load(FIXTURE)
    stored = json.loads((FIXTURE / "neuralchat.json").read_text())
    assert run.path == FIXTURE
    assert run.manifest == stored
    assert run.arguments == stored["arguments"]
    assert run.results.steps == stored["results"]["steps"]
    assert run.results.mean_loss == stored["results"]["mean_loss"]
    assert [dict(sample) for sample in run.results.samples] == stored["results"]["samples"]
    lines = [json.loads(line) for line in (FIXTURE / "metrics.jsonl").read_text().splitlines()]
    assert run.metrics == lines
    assert run.report == FIXTURE / "report.html"


def test_checkpoints_oldest_first(tmp_path: Path) -> None:
    for step in (10, 9, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert [path.name for path in Run(tmp_path).checkpoints] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]


def test_a_run_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "later"))
    assert repr(run) == f"Run('{tmp_path / 'later'}')"
    with pytest.raises(RunDirectoryError, match="later does not exist"):
        _ = run.results
    with pytest.raises(RunDirectoryError, match="later does not exist"):
        Run.load(tmp_path / "later")


def test_text_is_the_summary() -> None:
    run = Run.load(FIXTURE)
    text = str(run)
    assert text == run.summary() == str(summary(FIXTURE, run.manifest))
    assert f"chat           neuralchat chat {FIXTURE}" in text
    assert f"training loss  {run.results.mean_loss:.4f} (mean over {run.results.steps} steps)" in text


def test_the_command_to_go_on_with_can_be_typed(tmp_path: Path) -> None:
    run = tmp_path / "my runs"
    run.mkdir()
    (run / "neuralchat.json").write_bytes((FIXTURE / "neuralchat.json").read_bytes())
    assert f"chat           neuralchat chat '{run}'" in Run.load(run).summary()


def test_a_notebook_shows_it_with_no_tag_of_an_answer(tmp_path: Path) -> None:
    manifest = json.loads((FIXTURE / "neuralchat.json").read_text())
    manifest["results"]["samples"] = [{"question": "<script>", "expected": "a", "before": "b", "after": "&"}]
    (tmp_path / "neuralchat.json").write_text(json.dumps(manifest))
    shown = Run.load(tmp_path)._repr_html_()
    assert shown.startswith("<pre>")
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown


def edited(tmp_path: Path, **changes: Any) -> Run:
    manifest = json.loads((FIXTURE / "neuralchat.json").read_text())
    (tmp_path / "neuralchat.json").write_text(json.dumps({**manifest, **changes}))
    return Run.load(tmp_path)


def test_results_that_were_edited(tmp_path: Path) -> None:
    run = edited(tmp_path, results={"steps": 3})
    with pytest.raises(RunDirectoryError, match=r"neuralchat\.json is damaged: its results cannot be shown"):
        run.summary()
    assert run.results == RunResults(steps=3)


def test_a_merged_checkpoint_has_no_results(tmp_path: Path) -> None:
    run = edited(tmp_path, results={}, adapter={"method": "none", "merged": "lora"})
    with pytest.raises(RunDirectoryError, match="was merged from a checkpoint, whose run had no results yet"):
        run.summary()


def test_long_answers_become_one_line() -> None:
    assert one_line("a\n  b") == "a b"
    assert one_line("a" * 200) == "a" * 157 + "..."


def test_reading_a_run_imports_nothing_heavy() -> None:
    code = (
        f"import sys; from neuralchat.library.run import Run; Run.load({str(FIXTURE)!r}).summary();"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
