"""Files that are others when they are read than when they were checked: nothing of them is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.runs import ROWS, Desk, digest, stable_metrics

from neuralchat.checkpointing.checkpointer import Checkpointer
from neuralchat.checkpointing.store import SUMS, damage, sums_of
from neuralchat.preparation import session

FLAGS = ["--num_train_epochs", "2", "--per_device_train_batch_size", "4", "--save_steps", "2", "--report_samples", "0"]
FLAGS += ["--keep_general", "false", "--logging_steps", "1"]
RESUME = ["--resume_from_checkpoint", "auto"]


class TrainingDesk(Desk):
    def train(self, output: str, *more: str, prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
        words = ["finetune", "--model_name_or_path", str(self.model), "--train_file", "records.json", "--output_dir"]
        return self.run(*words, output, *FLAGS, *more, prepare=prepare)


@pytest.fixture
def desk(tmp_path: Path, llama_checkpoint: Path) -> TrainingDesk:
    return TrainingDesk(tmp_path, llama_checkpoint)


def other_weights(checkpoint: Path) -> None:
    """A whole checkpoint of other numbers, with hashes that are right."""
    for name in ("training_state.safetensors", "adapter_model.safetensors"):
        file = checkpoint / name
        tensors = load_file(file)
        for tensor in tensors.values():
            if tensor.is_floating_point():
                tensor.zero_()
        metadata = metadata_of(file)
        save_file(tensors, file, metadata=metadata)
    (checkpoint / SUMS).write_text(sums_of(checkpoint))


def metadata_of(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def one_byte(checkpoint: Path) -> None:
    file = checkpoint / "training_state.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def other_metrics(checkpoint: Path) -> None:
    (checkpoint / "metrics.jsonl").write_text('{"step": 1, "loss": 0.0}\n')
    (checkpoint / SUMS).write_text(sums_of(checkpoint))


SWAPS = {
    "another whole one": other_weights,
    "one byte": one_byte,
    "its metrics": other_metrics,
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("swap", SWAPS)
def test_a_checkpoint_that_is_swapped_between_check_and_load(desk: TrainingDesk, swap: str) -> None:
    assert desk.train("run")[0] == 0
    run = desk.directory / "run"
    expected = digest(run), stable_metrics(run)
    shutil.rmtree(run / "checkpoint-4")
    checkpoint, kept = run / "checkpoint-2", desk.directory / "kept"
    shutil.copytree(checkpoint, kept)

    def prepare() -> None:
        true_load = session.load_model

        def load(*words: Any) -> Any:
            SWAPS[swap](checkpoint)
            return true_load(*words)

        session.load_model = load

    status, said = desk.train("run", *RESUME, prepare=prepare)
    assert status == 2
    assert "checkpoint-2" in said
    assert "changed while it was read" in said or swap == "gone"
    # Neither its numbers nor its lines have got into the run.
    assert (digest(run), stable_metrics(run)) == expected
    shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.move(kept, checkpoint)
    assert damage(checkpoint) is None
    assert desk.train("run", *RESUME)[0] == 0
    assert (digest(run), stable_metrics(run)) == expected


def test_a_best_checkpoint_that_is_damaged_until_it_is_taken(desk: TrainingDesk) -> None:
    """Days may lie between its saving and the end of the run."""
    (desk.directory / "held out.json").write_text(json.dumps(ROWS[:2]))
    best = ["--validation_file", "held out.json", "--load_best_model_at_end", "--eval_strategy", "steps"]
    best += ["--eval_steps", "2", "--learning_rate", "0.05"]
    assert desk.train("whole", *best)[0] == 0
    assert desk.train("run", *best, prepare=damages_the_best)[0] == 2
    said = desk.log.read_text()
    assert "the best checkpoint, run/checkpoint-" in said
    assert "is not whole any more" in said
    assert "training_state.safetensors" in said
    assert not (desk.directory / "run" / "neuralchat.json").exists()


def damages_the_best() -> None:
    true_load = Checkpointer.load_best

    def load_best(self: Any, checkpoint: str) -> None:
        one_byte(Path(checkpoint))
        true_load(self, checkpoint)

    Checkpointer.load_best = load_best


def test_a_base_model_that_is_swapped_while_it_is_loaded(desk: TrainingDesk) -> None:
    desk.model = shutil.copytree(desk.model, desk.directory / "model")

    def prepare() -> None:
        true_load = session.load_model

        def load(source: Any, *words: Any) -> Any:
            file = Path(source.name) / "model.safetensors"
            tensors = load_file(file)
            save_file({name: tensor * 2 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
            return true_load(source, *words)

        session.load_model = load

    status, said = desk.train("run", prepare=prepare)
    assert status == 2
    assert "changed while they were loaded" in said
    assert not (desk.directory / "run").exists()
