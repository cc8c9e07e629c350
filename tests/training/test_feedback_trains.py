"""What thumbs on the page have written is trained on: the good answers, and those only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs import metrics

from neuralchat.inference.page.feedback import FeedbackFile, rated_answer

TURNS = [("Name a fruit.", "A hammer."), ("And a colour?", "The sky is blue.")]
FLAGS = (
    "--num_train_epochs", 1, "--report_samples", 0, "--save_strategy", "no", "--keep_general", "false",
)  # fmt: skip


@pytest.fixture
def feedback(tmp_path: Path) -> FeedbackFile:
    """Two conversations of two turns; in each the last answer was found good, and in another bad."""
    file = FeedbackFile(tmp_path / "answers.jsonl")
    messages = [
        {"role": role, "content": text}
        for turn in TURNS
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    for number, rating in enumerate(("up", "up", "down")):
        file.add(rated_answer({"id": f"answer-{number}", "feedback": rating, "model": "runs/a", "messages": messages}))
    return file


def test_good_answers_are_learned(
    run_cli: Callable, llama_checkpoint: Path, feedback: FeedbackFile, tmp_path: Path
) -> None:
    result = run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", feedback.path, "--output_dir", "run",
        *FLAGS,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert metrics(tmp_path / "run")
    assert "2 examples, " in result.stderr
    assert "note: train: fields that are not used: feedback, id, model, time" in result.stderr


def test_bad_answers_are_not(run_cli: Callable, llama_checkpoint: Path, feedback: FeedbackFile) -> None:
    result = run_cli(
        "finetune", "--model_name_or_path", llama_checkpoint, "--train_file", feedback.down_path,
        "--output_dir", "run", *FLAGS,
    )  # fmt: skip
    assert result.returncode == 2
    assert "answers.down.jsonl row 1: no answer of it is to be learned" in result.stderr
