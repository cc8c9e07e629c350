"""training/cautions.py: what will not work is told before it runs, and what does not work any more while it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.runs import ROWS
from transformers import TrainerState

from neuralchat.config.config import FinetuneConfig
from neuralchat.training.cautions import Watch, cautions
from neuralchat.training.counters import Counters


def told(tmp_path: Path, *, batch: int = 8, units: int = 400, max_steps: int = 150, **values: Any) -> list[str]:
    usual = {"model_name_or_path": "m", "train_file": "a.json", "output_dir": str(tmp_path), "do_train": True}
    arguments = FinetuneConfig.from_values({**usual, "use_cpu": True, "validation_file": "b.json", **values})
    plan: Any = SimpleNamespace(units_per_step=batch, units=range(units))
    return list(cautions(arguments, arguments.training_arguments(), plan, max_steps))


@pytest.mark.parametrize("method", ["lora", "ptun", "prefix", "prompt", "ia3", "none"])
def test_a_usual_run_has_none(tmp_path: Path, method: str) -> None:
    assert told(tmp_path, peft=method) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learning_rate": 50}, "a learning rate of 50 is so high"),
        ({"learning_rate": 0.01, "peft": "none"}, "a learning rate of 0.01 is so high"),
        ({"learning_rate": 1e-9}, "a learning rate of 1e-09 is so low"),
        ({"batch": 100_000, "units": 40}, "a batch of 100000 is larger than all the data (40)"),
        ({"max_steps": 15}, "only 15 optimizer step(s)"),
        ({"warmup_steps": 200}, "the learning rate warms up for 200 steps, the run has 150"),
        ({"eval_steps": 500}, "--eval_steps 500 is more than the 150 steps of the run"),
    ],
)
def test_what_cannot_work(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    (text,) = told(tmp_path, **changes)
    assert text.startswith(expected)


def watched(losses: list[float], norms: list[float], history: list[dict[str, float]] | None = None) -> None:
    counters, state = Counters(), TrainerState(log_history=history or [])
    watch = Watch(counters, 0.1)
    watch.on_train_begin(None, state, None)
    for loss, norm in zip(losses, norms, strict=True):
        counters.step_done(loss, norm, 0.1, tokens=1, supervised_tokens=1)
        state.global_step += 1
        watch.on_step_end(None, state, None)


def test_a_loss_that_rises(said: list[str]) -> None:
    watched([4.3, 21.0, 22.5, 23.0, 25.0, 30.0], [1.0] * 6)
    assert said == ["the loss has risen from 4.30 to 22.50 at step 4: lower --learning_rate, which is 0.1"]


def test_gradients_that_explode(said: list[str]) -> None:
    watched([4.0] * 5, [1.0, 2.0, 3.6e12, 1e13, 1e14])
    assert said == [
        "the gradient's norm is 3.6e+12 at step 3, it began at 1.5e+00: lower --learning_rate, which is 0.1"
    ]


def test_a_hard_batch_is_no_news(said: list[str]) -> None:
    watched([2.0, 2.5, 9.0, 1.5, 1.8, 2.9, 0.4], [1.0, 5.0, 900.0, 2.0, 1.0, 3.0, 0.2])
    assert said == []


def test_a_run_that_goes_on_knows_its_start(said: list[str]) -> None:
    watched([9.0] * 4, [1.0] * 4, [{"loss": 2.0, "step": 10}])
    assert len(said) == 1


def test_the_command_says_so(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], llama_checkpoint: Path
) -> None:
    result = run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS), "--output_dir",
        "run", "--learning_rate", 5, "--num_train_epochs", 5, "--peft", "none", "--per_device_train_batch_size", 4,
        "--report_samples", 0, "--save_strategy", "no",
    )  # fmt: skip
    assert "note: a learning rate of 5 is so high" in result.stderr
    assert result.stderr.count("note: the loss has risen from 6.") == 1, result.stderr
