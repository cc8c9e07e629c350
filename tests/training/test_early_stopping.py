"""Evaluation while training: early stopping, the best checkpoint as the result, a checkpoint in use meanwhile."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.runs import ROWS, digest, metrics, stable_metrics
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState

from neuralchat.config.config import FinetuneConfig
from neuralchat.errors import ArgumentsError
from neuralchat.library.run import Run
from neuralchat.training.callbacks import EarlyStopping

# Learned by heart, so that what is held out is answered ever worse.
FLAGS = (
    "--learning_rate", 0.05, "--lora_all_linear", "--lora_dropout", 0.1, "--per_device_train_batch_size", 2,
    "--num_train_epochs", 40, "--report_samples", 0, "--logging_steps", 3,
)  # fmt: skip


@pytest.fixture
def words(write_records: Callable[..., Path], llama_checkpoint: Path) -> list[object]:
    """A command that gets worse on what is held out after a few steps, without its --output_dir."""
    return [
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", write_records(ROWS[:6], "train.json"),
        "--validation_file", write_records(ROWS[6:], "held_out.json"), *FLAGS,
    ]  # fmt: skip


def config(**values: Any) -> FinetuneConfig:
    usual = {"model_name_or_path": "m", "train_file": "a.json", "output_dir": "o", "do_train": True}
    return FinetuneConfig.from_values({**usual, "validation_file": "b.json", **values})


# What one flag says of the others


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"eval_steps": 50}, ("steps", 50, "steps", 500, False)),
        ({"early_stopping_patience": 3}, ("epoch", None, "epoch", 500, True)),
        ({"early_stopping_patience": 3, "eval_steps": 20}, ("steps", 20, "steps", 20, True)),
        ({"load_best_model_at_end": True, "eval_steps": 20}, ("steps", 20, "steps", 20, True)),
        ({"load_best_model_at_end": True, "eval_steps": 20, "save_steps": 40}, ("steps", 20, "steps", 40, True)),
        ({"early_stopping_patience": 3, "eval_strategy": "steps"}, ("steps", None, "steps", 10, True)),
        ({"early_stopping_patience": 3, "load_best_model_at_end": False}, ("epoch", None, "epoch", 500, False)),
        ({}, ("no", None, "steps", 500, False)),
    ],
)
def test_what_was_not_said(given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    training = config(**given).training
    names = ("eval_strategy", "eval_steps", "save_strategy", "save_steps", "load_best_model_at_end")
    assert tuple(getattr(training, name) for name in names) == expected
    # transformers takes them together.
    config(use_cpu=True, **given).training_arguments()


def test_a_smaller_perplexity_is_the_better_one() -> None:
    args = config(use_cpu=True, metric_for_best_model="perplexity", early_stopping_patience=1).training_arguments()
    assert args.greater_is_better is False


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"early_stopping_patience": 0}, "--early_stopping_patience must be at least 1, found 0"),
        ({"early_stopping_patience": 2, "eval_strategy": "no"}, "--early_stopping_patience needs evaluations"),
        ({"early_stopping_patience": 2, "save_strategy": "no"}, "--save_strategy must be that of --eval_strategy"),
        ({"early_stopping_patience": 2, "validation_file": []}, "evaluation needs records"),
        ({"early_stopping_threshold": 0.1}, "--early_stopping_threshold needs --early_stopping_patience"),
        ({"load_best_model_at_end": True, "save_only_model": True}, "--save_only_model keeps no checkpoint that"),
        ({"metric_for_best_model": "bleu"}, "--metric_for_best_model is 'bleu'; measured are loss, perplexity"),
    ],
)
def test_what_does_not_go_together(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ArgumentsError, match=problem):
        config(**given)


# When it stops


@pytest.mark.parametrize("greater_is_better", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_it_stops_where_that_of_transformers_does(threshold: float, greater_is_better: bool) -> None:
    draw = random.Random(0)
    args = SimpleNamespace(
        metric_for_best_model="loss", greater_is_better=greater_is_better, load_best_model_at_end=True,
        eval_strategy="steps",
    )  # fmt: skip
    for _ in range(200):
        ours, theirs = EarlyStopping(3, threshold), EarlyStoppingCallback(3, threshold)
        state, control, their_control = TrainerState(), TrainerControl(), TrainerControl()
        # Measured before the first step.
        state.log_history.append({"eval_loss": -100.0 if greater_is_better else 100.0, "step": 0})
        for step in range(1, 12):
            value = draw.choice([1.0, 1.2, 1.5, 2.0, draw.random()])
            state.global_step = step
            state.log_history += [{"loss": 1.0, "step": step}, {"eval_loss": value, "step": step}]
            ours.on_evaluate(args, state, control)
            theirs.on_evaluate(args, state, their_control, {"eval_loss": value})
            assert control.should_training_stop == their_control.should_training_stop
            better = max if greater_is_better else min
            state.best_metric = value if state.best_metric is None else better(value, state.best_metric)


def test_the_best_state_is_the_result(run_cli: Callable[..., Any], words: list[object], tmp_path: Path) -> None:
    result = run_cli(
        *words, "--output_dir", "run", "--early_stopping_patience", 3, "--eval_steps", 2, "--save_total_limit", 1,
        check=True,
    )  # fmt: skip
    run = Run.load(tmp_path / "run")
    losses = {line["step"]: line["eval_loss"] for line in run.metrics if "eval_loss" in line and line["step"]}
    best = min(losses, key=lambda step: losses[step])
    assert run.results.best_step == best
    assert run.results.best_metric == losses[best]
    # Three evaluations without gain, and not a step more.
    assert run.results.steps == best + 6 < 120
    assert run.results.held_out_loss_after == losses[best]
    # The newest stays, and the best besides, so that the run can go on.
    assert [path.name for path in run.checkpoints] == [f"checkpoint-{best}", f"checkpoint-{best + 6}"]
    assert digest(run.path) == digest(run.path / f"checkpoint-{best}")
    told = f"note: stopping early at step {best + 6}: 3 evaluation(s) in a row found no better eval_loss"
    assert result.stderr.count(told) == result.stderr.count("stopping early") == 1
    assert f"best state     checkpoint-{best}, measured {losses[best]:.4f}" in result.stdout
    assert f"<b>step {best}</b>" in run.report.read_text()


def test_patience_goes_on_bit_for_bit(run_cli: Callable[..., Any], words: list[object], tmp_path: Path) -> None:
    flags = ("--early_stopping_patience", 4, "--eval_steps", 2, "--early_stopping_threshold", 0.01)
    run_cli(*words, *flags, "--output_dir", "whole", check=True)
    whole = Run.load(tmp_path / "whole")
    kept = [int(path.name.removeprefix("checkpoint-")) for path in whole.checkpoints]
    assert len(kept) > 4
    # In the middle of its patience, and at the step where it stopped.
    for step in (kept[-3], kept[-1]):
        part = tmp_path / f"from-{step}"
        for other in kept:
            if other <= step:
                shutil.copytree(whole.path / f"checkpoint-{other}", part / f"checkpoint-{other}")
        run_cli(*words, *flags, "--output_dir", part, "--resume_from_checkpoint", "auto", check=True)
        assert digest(part) == digest(whole.path)
        assert stable_metrics(part) == stable_metrics(whole.path)
        assert Run.load(part).results.best_step == whole.results.best_step


def test_evaluating_every_few_steps_needs_one_flag(
    run_cli: Callable[..., Any], words: list[object], tmp_path: Path
) -> None:
    run_cli(*words, "--output_dir", "run", "--max_steps", 6, "--eval_steps", 2, "--save_strategy", "no", check=True)
    assert [line["step"] for line in metrics(tmp_path / "run") if "eval_loss" in line] == [0, 2, 4, 6, 6]


def test_a_checkpoint_can_be_chatted_with_while_the_run_goes_on(
    run_cli: Callable[..., Any], words: list[object], tmp_path: Path
) -> None:
    command = [*words, "--output_dir", "run", "--num_train_epochs", 5000, "--save_steps", 2, "--save_total_limit", 200]
    process = subprocess.Popen(
        [sys.executable, "-m", "neuralchat.cli", *map(str, command)], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoint-4").is_dir():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        before = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
        said = run_cli("chat", "run/checkpoint-2", "-p", "Name a fruit.", "--max_new_tokens", 4, check=True)
        assert said.stdout.strip()
        assert process.poll() is None
        assert json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text()) == before
        # The run itself is none yet, and says what can be talked to.
        early = run_cli("chat", "run", "-p", "Name a fruit.")
        assert early.returncode == 2
        assert "Its training has not finished; its newest checkpoint is run/checkpoint-" in early.stderr
    finally:
        process.kill()
        process.wait()


def test_a_run_that_went_too_far_says_so_and_what_to_change(
    run_cli: Callable, words: list[object], tmp_path: Path
) -> None:
    result = run_cli(
        *words, "--template", "alpaca", "--eval_steps", 12, "--save_strategy", "no", "--output_dir", "run", check=True
    )
    evaluated = [(line["eval_loss"], line["step"]) for line in metrics(tmp_path / "run") if "eval_loss" in line]
    expected = f"over-fit: the held-out loss was lowest at step {min(evaluated)[1]} "
    assert expected in result.stderr + result.stdout
    manifest = json.loads((tmp_path / "run" / "neuralchat.json").read_text())
    assert manifest["results"]["advice"][0].startswith(expected)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "What to change" in report
    assert expected in report
    assert expected in run_cli("show", "run", check=True).stdout
