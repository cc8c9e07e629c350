"""checkpointing/select.py: which checkpoint is taken, which is passed over and why, and what the metrics keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuralchat.checkpointing.select import (
    checkpoint_to_resume,
    global_batch,
    identity_of_run,
    restore_metrics,
    stored_identity,
)
from neuralchat.checkpointing.store import IDENTITY, STATE, SUMS, TRAINER_STATE, write_checkpoint
from neuralchat.errors import RunDirectoryError

FILES = ("adapter_model.safetensors", STATE, TRAINER_STATE, IDENTITY)


def checkpoint(output: Path, step: int, *, without: tuple[str, ...] = ()) -> Path:
    def write(directory: Path) -> None:
        for name in FILES:
            if name not in without:
                (directory / name).write_text(json.dumps({"global_step": step}))

    return write_checkpoint(output, step, write)


@pytest.mark.parametrize("value", [None, "false", "False"])
def test_not_resuming(tmp_path: Path, value: str | None) -> None:
    checkpoint(tmp_path, 5)
    assert checkpoint_to_resume(value, tmp_path) is None


@pytest.mark.parametrize("value", ["auto", "True", "latest"])
def test_the_newest_is_by_step(tmp_path: Path, value: str, said: list[str]) -> None:
    for step in (100, 20, 9):
        checkpoint(tmp_path, step)
    assert checkpoint_to_resume(value, tmp_path) == tmp_path / "checkpoint-100"
    assert said == [f"going on from {tmp_path / 'checkpoint-100'}"]


def test_what_is_not_whole_is_passed_over_with_its_reason(tmp_path: Path, said: list[str]) -> None:
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, without=(STATE, TRAINER_STATE))
    (checkpoint(tmp_path, 30) / SUMS).unlink()
    flipped = checkpoint(tmp_path, 40) / STATE
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"]")
    assert checkpoint_to_resume("auto", tmp_path) == tmp_path / "checkpoint-10"
    assert said == [
        f"{tmp_path / 'checkpoint-40'} is passed over: its content is not what was saved ({STATE} differ from {SUMS})",
        f"{tmp_path / 'checkpoint-30'} is passed over: it lacks {SUMS}",
        f"{tmp_path / 'checkpoint-20'} is passed over: it lacks {STATE}, {TRAINER_STATE}",
        f"going on from {tmp_path / 'checkpoint-10'}",
    ]


@pytest.mark.parametrize("value", ["auto", "latest"])
@pytest.mark.parametrize("name", FILES)
def test_no_whole_checkpoint(tmp_path: Path, name: str, value: str) -> None:
    checkpoint(tmp_path, 20, without=(name,))
    with pytest.raises(RunDirectoryError, match=f"{value}: there is no whole checkpoint in(.|\n)*it lacks {name}"):
        checkpoint_to_resume(value, tmp_path)


@pytest.mark.parametrize("value", ["latest", "true"])
def test_nothing_to_go_on_from(tmp_path: Path, value: str) -> None:
    with pytest.raises(RunDirectoryError, match="there is no whole checkpoint in"):
        checkpoint_to_resume(value, tmp_path / "none")


def test_auto_begins_where_there_is_nothing_yet(tmp_path: Path, said: list[str]) -> None:
    """The first start of a job and each later one take the same command."""
    assert checkpoint_to_resume("auto", tmp_path / "none") is None
    assert said == [f"{tmp_path / 'none'} has no checkpoint yet: training begins at its first step"]


def test_named_checkpoint_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    chosen = checkpoint(tmp_path / "other", 7)
    assert checkpoint_to_resume(str(chosen), tmp_path / "out") == chosen


def test_named_checkpoint_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"--resume_from_checkpoint .*checkpoint-3 is not a directory"):
        checkpoint_to_resume(str(tmp_path / "checkpoint-3"), tmp_path)


def test_named_checkpoint_that_is_not_whole(tmp_path: Path) -> None:
    chosen = checkpoint(tmp_path, 7, without=(STATE,))
    with pytest.raises(RunDirectoryError, match=f"checkpoint-7 is not whole: it lacks {STATE}"):
        checkpoint_to_resume(str(chosen), tmp_path)


def test_metrics_become_those_of_the_checkpoint(tmp_path: Path) -> None:
    lines = [{"step": 5, "loss": 1}, {"step": 10, "loss": 2}, {"step": 10, "eval_loss": 3}]
    kept = tmp_path / "checkpoint-10"
    kept.mkdir()
    (kept / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1}\n{"step": 15, "lo')
    restore_metrics(tmp_path, kept)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == lines


def test_metrics_of_a_run_that_begins_anew_are_empty(tmp_path: Path) -> None:
    restore_metrics(tmp_path, None)
    assert not (tmp_path / "metrics.jsonl").exists()
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1}\n')
    restore_metrics(tmp_path, None)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("stored", "own", "world", "expected"),
    [
        (None, 8, 2, 8),
        # 4 a process on 2 processes: on 1 and on 4 the batch of all stays 8.
        ({"global_batch": 8, "world_size": 2}, 4, 1, 8),
        ({"global_batch": 8, "world_size": 2}, 16, 4, 8),
        # Another batch a process is a change, which check_identity refuses.
        ({"global_batch": 8, "world_size": 2}, 12, 4, 12),
        ({"global_batch": "8", "world_size": 0}, 12, 4, 12),
    ],
)
def test_the_global_batch_outlives_a_change_of_processes(
    stored: dict | None, own: int, world: int, expected: int
) -> None:
    assert global_batch(stored, own, world) == expected


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_identity_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / IDENTITY).write_text(text)
    with pytest.raises(RunDirectoryError, match=f"{IDENTITY} (is damaged|cannot be read)"):
        stored_identity(tmp_path)


def test_a_run_that_does_not_say_what_it_was(tmp_path: Path) -> None:
    template = {"name": "alpaca", "sha256": "0"}
    manifest = {"base_model": {"name": "m"}, "template": template, "adapter": {"method": "lora"}, "results": {}}
    (tmp_path / "neuralchat.json").write_text(json.dumps(manifest))
    with pytest.raises(RunDirectoryError, match="does not say what decided its result"):
        identity_of_run(tmp_path)


def test_a_run_in_the_place_of_its_checkpoint_is_told(tmp_path: Path) -> None:
    chosen = checkpoint(tmp_path, 5)
    (tmp_path / "adapter_model.safetensors").write_text("of the finished run")
    with pytest.raises(RunDirectoryError, match=f"is a run and no checkpoint; name one of its .*{chosen}") as caught:
        checkpoint_to_resume(str(tmp_path), tmp_path)
    assert "auto" in str(caught.value)
