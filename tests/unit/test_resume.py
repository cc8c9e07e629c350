"""training/resume.py: which checkpoint is taken, which is passed over, and what the metrics keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuralchat.errors import RunDirectoryError
from neuralchat.training.resume import checkpoint_to_resume, trim_metrics

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


def checkpoint(output: Path, step: int, *, without: tuple[str, ...] = ()) -> Path:
    path = output / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in FILES:
        if name not in without:
            (path / name).write_text(json.dumps({"global_step": step}))
    return path


@pytest.mark.parametrize("value", [None, "false", "False"])
def test_not_resuming(tmp_path: Path, value: str | None) -> None:
    checkpoint(tmp_path, 5)
    assert checkpoint_to_resume(value, tmp_path, print) is None


@pytest.mark.parametrize("value", ["auto", "True", "latest"])
def test_auto_takes_the_newest_by_step(tmp_path: Path, value: str) -> None:
    for step in (100, 20, 9):
        checkpoint(tmp_path, step)
    said: list[str] = []
    assert checkpoint_to_resume(value, tmp_path, said.append) == tmp_path / "checkpoint-100"
    assert said == [f"going on from {tmp_path / 'checkpoint-100'}"]


def test_auto_passes_over_what_is_not_whole(tmp_path: Path) -> None:
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, without=("optimizer.pt", "trainer_state.json"))
    said: list[str] = []
    assert checkpoint_to_resume("auto", tmp_path, said.append) == tmp_path / "checkpoint-10"
    assert said == [
        f"{tmp_path / 'checkpoint-20'} is passed over: it lacks optimizer.pt, trainer_state.json",
        f"going on from {tmp_path / 'checkpoint-10'}",
    ]


@pytest.mark.parametrize("name", FILES)
def test_no_whole_checkpoint(tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path, 20, without=(name,))
    with pytest.raises(RunDirectoryError, match="--resume_from_checkpoint auto: there is no whole checkpoint in"):
        checkpoint_to_resume("auto", tmp_path, lambda text: None)


def test_output_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="there is no whole checkpoint in"):
        checkpoint_to_resume("auto", tmp_path / "none", print)


def test_named_checkpoint_may_lie_anywhere(tmp_path: Path) -> None:
    chosen = checkpoint(tmp_path / "other", 7)
    assert checkpoint_to_resume(str(chosen), tmp_path / "out", print) == chosen


def test_named_checkpoint_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"--resume_from_checkpoint .*checkpoint-3 is not a directory"):
        checkpoint_to_resume(str(tmp_path / "checkpoint-3"), tmp_path, print)


def test_named_checkpoint_that_is_not_whole(tmp_path: Path) -> None:
    chosen = checkpoint(tmp_path, 7, without=("scheduler.pt",))
    with pytest.raises(RunDirectoryError, match=r"checkpoint-7 is not whole: it lacks scheduler\.pt"):
        checkpoint_to_resume(str(chosen), tmp_path, print)


def test_metrics_keep_the_steps_up_to_the_checkpoint(tmp_path: Path) -> None:
    lines = [{"step": 5, "loss": 1}, {"step": 10, "loss": 2}, {"step": 10, "eval_loss": 3}, {"step": 15, "loss": 4}]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trim_metrics(metrics, checkpoint(tmp_path, 10))
    assert [json.loads(line) for line in metrics.read_text().splitlines()] == lines[:3]
    assert metrics.read_text().endswith("\n")


def test_metrics_whose_last_line_was_cut_by_a_crash(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 5, "loss": 1}\n{"step": 15, "lo')
    trim_metrics(metrics, checkpoint(tmp_path, 10))
    assert metrics.read_text() == '{"step": 5, "loss": 1}\n'


def test_missing_metrics_stay_missing(tmp_path: Path) -> None:
    trim_metrics(tmp_path / "metrics.jsonl", checkpoint(tmp_path, 10))
    assert not (tmp_path / "metrics.jsonl").exists()
