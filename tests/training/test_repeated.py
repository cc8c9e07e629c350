"""Reproducible: the same run again, with workers, with threads, and from neuralchat.json alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.forks import run_forked
from support.runs import digest, stable_metrics

from neuralchat.models.kernels.compiled import library

ROWS = [{"instruction": f"Say the word number {i}.", "output": f"Word {i} it is." * (1 + i % 5)} for i in range(20)]
FLAGS = [
    "--num_train_epochs", "2", "--per_device_train_batch_size", "4", "--learning_rate", "0.01", "--logging_steps", "1",
    "--save_strategy", "no", "--report_samples", "0", "--lora_dropout", "0.2", "--gradient_accumulation_steps", "2",
]  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, llama_checkpoint: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "records.json").write_text(json.dumps(ROWS))
    (tmp_path / "model").symlink_to(llama_checkpoint)
    (tmp_path / "elsewhere").mkdir()
    library("elementwise", BF16=0)
    return tmp_path


def train(work: Path, output: str, *extra: str) -> tuple[str, list[dict]]:
    words = ["finetune", "--model_name_or_path", "model", "--train_file", "data/records.json", "--output_dir", output]
    assert run_forked([*words, *FLAGS, *extra], work, work / "log") == 0, (work / "log").read_text()
    return digest(work / output), stable_metrics(work / output)


def test_again_and_with_any_number_of_workers(work: Path) -> None:
    first = train(work, "first")
    for workers in ("0", "1", "3"):
        assert train(work, f"workers-{workers}", "--dataloader_num_workers", workers) == first


def test_again_with_several_threads(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over threads are laid out by the data, not by which thread is first."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert train(work, "first") == train(work, "second")


def test_from_run_repeats_it_from_anywhere(work: Path) -> None:
    first = train(work, "first")
    again = ["finetune", "--from_run", str(work / "first"), "--output_dir", "again"]
    assert run_forked(again, work / "elsewhere", work / "log") == 0, (work / "log").read_text()
    assert (digest(work / "elsewhere" / "again"), stable_metrics(work / "elsewhere" / "again")) == first


def refused(work: Path, *words: str) -> str:
    log = work / "refusal"
    log.unlink(missing_ok=True)
    assert run_forked(["finetune", "--from_run", "first", "--output_dir", "again", *words], work, log) == 2
    text = log.read_text()
    assert "Traceback" not in text
    assert not (work / "again").exists()
    return text


def test_from_run_refuses_what_would_not_repeat_it(work: Path) -> None:
    train(work, "first")
    assert "seed: was 42, is now 7" in refused(work, "--seed", "7")
    (work / "data" / "records.json").write_text(json.dumps(ROWS[:-1]))
    assert "data: was" in refused(work)
    os.remove(work / "data" / "records.json")
    assert "data/records.json does not exist" in refused(work)


def test_from_run_needs_a_finished_run_and_an_output(work: Path) -> None:
    log = work / "refusal"
    assert run_forked(["finetune", "--from_run", "nowhere", "--output_dir", "again"], work, log) == 2
    assert "run directory nowhere does not exist" in log.read_text()
    train(work, "first")
    assert run_forked(["finetune", "--from_run", "first"], work, log) == 2
    assert "--output_dir is missing" in log.read_text()
