"""watching/watch.py: what does not work any more is told while it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.runs import ROWS
from transformers import TrainerState

from neuralchat.watching.counters import Counters
from neuralchat.watching.watch import Watch


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
