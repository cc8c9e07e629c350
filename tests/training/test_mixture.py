"""A run on a mixture: told before training, repeated from anywhere, resumed to the same end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runs import digest, stable_metrics

FLAGS = [
    "--num_train_epochs", "2", "--per_device_train_batch_size", "4", "--learning_rate", "0.01", "--logging_steps", "1",
    "--save_steps", "3", "--report_samples", "0", "--mix_samples", "16", "--dataset_seed", "5",
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, llama_checkpoint: Path) -> Path:
    (tmp_path / "data").mkdir()
    general = [{"instruction": f"Say {i}.", "output": f"It is {i}."} for i in range(20)]
    domain = [{"question": f"Where is {i}?", "answer": f"In row {i}."} for i in range(3)]
    (tmp_path / "data" / "general.json").write_text(json.dumps(general))
    (tmp_path / "data" / "domain=1.json").write_text(json.dumps({"version": 1, "data": domain}, indent=1))
    (tmp_path / "model").symlink_to(llama_checkpoint)
    return tmp_path


def test_a_mixture_is_told_repeated_and_resumed(run_cli: Callable[..., Any], place: Path) -> None:
    mix = ["--mix", "data/general.json=3", "data/domain=1.json=1"]
    words = ["--model_name_or_path", "model", *mix, *FLAGS]
    first = run_cli("finetune", *words, "--output_dir", "first", check=True)
    told = (
        "data/general.json 12 (75.0%; 8 of its 20 left out), data/domain=1.json 4 (25.0%; each of its 3 1 or 2 times)"
    )
    assert f"note: train: mixture of 16 examples: {told}" in first.stderr
    assert first.stderr.index("mixture of 16") < first.stderr.index("forecast")
    manifest = json.loads((place / "first" / "neuralchat.json").read_text())
    assert manifest["data"]["counts"]["train"]["mixture"]["data/domain=1.json"] == {
        "share": 0.25, "examples": 3, "chosen": 4,
    }  # fmt: skip

    resumed = ["--output_dir", "resumed", "--resume_from_checkpoint", "first/checkpoint-3"]
    run_cli("finetune", *words, *resumed, check=True)

    other = ["--mix", "data/general.json=1", "data/domain=1.json=1"]
    refused = run_cli("finetune", "--from_run", "first", *other, "--output_dir", "other")
    assert refused.returncode == 2
    assert "data: was" in refused.stderr

    # Paths are looked up where the run was started.
    (place / "elsewhere").mkdir()
    (place / "data").rename(place / "elsewhere" / "data")
    manifest["working_directory"] = str(place / "elsewhere")
    (place / "first" / "neuralchat.json").write_text(json.dumps(manifest))
    run_cli("finetune", "--from_run", "first", "--output_dir", "again", check=True)
    for run in ("again", "resumed"):
        assert digest(place / run) == digest(place / "first")
    assert stable_metrics(place / "again") == stable_metrics(place / "first")
