"""checkpointing/validate.py: what a checkpoint says is believed only where a run can have written it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerState

from neuralchat.checkpointing.store import TRAINER_STATE
from neuralchat.checkpointing.validate import fits, restore_trainer_state
from neuralchat.errors import ModelError, RunDirectoryError

RIGHT: dict[str, Any] = {"global_step": 4, "epoch": 1.0, "log_history": [{"loss": 1.0}]}


def refusal(error: Exception) -> str:
    with pytest.raises(RunDirectoryError) as caught, fits(Path("run/checkpoint-4")):
        raise error
    assert caught.value.__cause__ is error
    return str(caught.value)


def test_what_a_library_says_names_the_checkpoint_and_what_to_do() -> None:
    assert refusal(ValueError("size mismatch for w\nand more lines")) == (
        "checkpoint run/checkpoint-4 does not fit this run: size mismatch for w. Give the arguments and records that "
        "it was made with; or delete it, to go on from an earlier one."
    )
    assert "does not fit this run: KeyError. Give" in refusal(KeyError())
    assert len(refusal(ValueError("x" * 5000))) < 400


def test_an_error_of_our_own_stays() -> None:
    with pytest.raises(ModelError, match=r"^as it is$"), fits(Path("c")):
        raise ModelError("as it is")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"global_step": 11}, "its step is 11, this run has 10"),
        ({"global_step": "4"}, "its step is '4', this run has 10"),
        ({"global_step": True}, "its step is True, this run has 10"),
        ({"epoch": float("inf")}, "its epoch is inf"),
        ({"log_history": {}}, "its history is not a list of lines"),
        ({"best_global_step": 5, "best_metric": 1.0}, "its best step is 5"),
    ],
)
def test_values_that_no_run_can_have(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    (tmp_path / TRAINER_STATE).write_text(json.dumps({**RIGHT, **changes}))
    with pytest.raises(RunDirectoryError, match=rf"^checkpoint .* does not fit this run: {why}\. Give"):
        restore_trainer_state(TrainerState(max_steps=10), tmp_path, tmp_path)


def test_what_a_run_wrote_is_taken(tmp_path: Path) -> None:
    (tmp_path / TRAINER_STATE).write_text(json.dumps(RIGHT))
    state = TrainerState(max_steps=10)
    assert restore_trainer_state(state, tmp_path, tmp_path) == 4
    assert (state.global_step, state.epoch, state.log_history) == (4, 1.0, [{"loss": 1.0}])
