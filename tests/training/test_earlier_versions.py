"""What version 0.1 left behind still works: a finished run, and one that was interrupted.

tests/fixtures/run_of_0_1 was written by 0.1 with the flags below: `run` whole, `interrupted` up to its checkpoint of
step 10.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import family_config
from support.runs import Desk, adapter, copied, digest, stable_metrics
from support.small_models import make_tokenizer
from transformers import AutoModelForCausalLM

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run_of_0_1"
FLAGS = [
    "--model_name_or_path", "model", "--train_file", "records.json", "--validation_file", "held_out.json",
    "--output_dir", "run", "--num_train_epochs", 3, "--per_device_train_batch_size", 4, "--learning_rate", 0.01,
    "--logging_steps", 3, "--save_steps", 10, "--eval_strategy", "steps", "--eval_steps", 6, "--lora_dropout", 0.2,
    "--report_samples", 1, "--sample_tokens", 8, "--per_device_eval_batch_size", 2,
]  # fmt: skip
# Another machine adds in another order.
TOLERANCE = 1e-5


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory laid out as the one that the run was started in; without any run."""
    copied(FIXTURE / "model", tmp_path / "model")
    for name in ("records.json", "held_out.json"):
        shutil.copyfile(FIXTURE / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def finished(place: Path) -> Path:
    """...and with the finished run, which looks for nothing where it was made: that place may be there."""
    run = copied(FIXTURE / "run", place / "run")
    manifest = (run / "neuralchat.json").read_text()
    (run / "neuralchat.json").write_text(manifest.replace(manifest_of(run)["working_directory"], str(place)))
    return run


def manifest_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "neuralchat.json").read_text())


def assert_same_run(found: Path, expected: Path) -> None:
    """Adapter and metrics, but for clocks and memory."""
    ours, theirs = adapter(found), adapter(expected)
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=TOLERANCE, atol=TOLERANCE, msg=name)
    lines, expected_lines = stable_metrics(found), stable_metrics(expected)
    assert [list(line) for line in lines] == [list(line) for line in expected_lines]
    for line, expected_line in zip(lines, expected_lines, strict=True):
        assert line == pytest.approx(expected_line, rel=TOLERANCE)


def test_it_chats(run_cli: Callable, finished: Path) -> None:
    """With the answer that it gave at its end."""
    (sample,) = manifest_of(finished)["results"]["samples"]
    said = run_cli("chat", "run", "-p", sample["question"], "--max_new_tokens", 8, check=True)
    assert said.stdout.strip() == sample["after"].strip() + " [cut at --max_new_tokens]"


def test_it_is_shown(run_cli: Callable, finished: Path) -> None:
    shown = run_cli("show", "run", check=True).stdout
    results = manifest_of(finished)["results"]
    for expected in ("held_out_loss_before", "held_out_loss_after"):
        assert f"{results[expected]:.4f}" in shown
    assert results["samples"][0]["question"] in shown


def test_it_is_merged(run_cli: Callable, finished: Path) -> None:
    """The whole model is the base with the adapter's products added, and answers as the run does."""
    run_cli("merge", "run", "--output", "whole", check=True)
    whole, base = (
        AutoModelForCausalLM.from_pretrained(finished.parent / name).state_dict() for name in ("whole", "model")
    )
    config = json.loads((finished / "adapter_config.json").read_text())
    factors = adapter(finished)
    changed = set()
    for name, factor in factors.items():
        if ".lora_A." in name:
            product = factors[name.replace("lora_A", "lora_B")] @ factor * (config["lora_alpha"] / config["r"])
            target = name.removeprefix("base_model.model.").replace(".lora_A", "")
            torch.testing.assert_close(whole[target], base[target] + product, rtol=1e-4, atol=1e-5)
            changed.add(target)
    assert changed == {name for name in whole if not torch.equal(whole[name], base[name])}


def test_it_is_repeated_from_its_manifest(run_cli: Callable, finished: Path) -> None:
    run_cli("finetune", "--from_run", "run", "--output_dir", "again", check=True)
    assert_same_run(finished.parent / "again", finished)


def test_the_interrupted_one_goes_on_and_ends_as_the_finished_one(run_cli: Callable, place: Path) -> None:
    copied(FIXTURE / "interrupted", place / "run")
    result = run_cli("finetune", *FLAGS, "--resume_from_checkpoint", "auto", check=True)
    assert "going on from run/checkpoint-10" in result.stderr
    kept = next(line for line in result.stderr.splitlines() if "with defaults of an earlier version" in line)
    assert {"lora_rank 8", "lora_init default", "keep_general False"} <= set(kept.partition("stay: ")[2].split(", "))
    assert_same_run(place / "run", FIXTURE / "run")
    theirs, ours = manifest_of(FIXTURE / "run")["results"], manifest_of(place / "run")["results"]
    for name in ("steps", "tokens", "mean_loss", "held_out_loss_before", "held_out_loss_after"):
        assert ours[name] == pytest.approx(theirs[name], rel=TOLERANCE), name
    assert ours["tokens_this_time"] < ours["tokens"]


def test_the_interrupted_one_begun_with_other_flags_is_refused_by_name(run_cli: Callable, place: Path) -> None:
    copied(FIXTURE / "interrupted", place / "run")
    result = run_cli("finetune", *FLAGS, "--learning_rate", 0.02, "--resume_from_checkpoint", "auto")
    assert result.returncode == 2
    assert "learning_rate: was 0.01, is now 0.02" in result.stderr


# Versions before these put LoRA on what chooses experts.


def choosing_routers() -> None:
    from neuralchat.models.adapters import targets

    targets.in_router = lambda path: False
    targets.routers_of = lambda parameters: set()


@pytest.fixture
def mixture_of_experts(tmp_path: Path) -> Path:
    tokenizer = make_tokenizer()
    config = family_config("mixtral", vocab_size=len(tokenizer), num_hidden_layers=1)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "experts")
    tokenizer.save_pretrained(tmp_path / "experts")
    return tmp_path / "experts"


def test_lora_that_another_version_would_put_elsewhere_is_refused_unless_allowed(
    mixture_of_experts: Path, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, mixture_of_experts)
    flags = [
        "finetune", "--model_name_or_path", "experts", "--train_file", "records.json", "--max_steps", "2",
        "--report_samples", "0", "--no_keep_general", "--save_strategy", "no",
    ]  # fmt: skip
    for name, prepare in (("old", choosing_routers), ("now", lambda: None)):
        assert desk.run(*flags, "--output_dir", name, prepare=prepare)[0] == 0
    refused, said = desk.run("finetune", "--from_run", "old", "--output_dir", "again")
    assert refused == 2
    assert "LoRA is put on other layers than in old" in said
    assert ": no longer on model.layers.*.mlp.gate\n" in said
    assert "--allow_changed lora_target_modules" in said
    status, said = desk.run(
        "finetune", "--from_run", "old", "--output_dir", "again", "--allow_changed", "lora_target_modules"
    )
    assert status == 0
    assert "note: LoRA is put on other layers than in old" in said
    assert digest(tmp_path / "again") == digest(tmp_path / "now")
    status, said = desk.run("finetune", "--from_run", "now", "--output_dir", "once_more")
    assert status == 0
    assert "other layers" not in said


def test_a_run_of_this_version_is_not_said_to_be_of_an_earlier_one(tmp_path: Path) -> None:
    """What `auto` stands for is what earlier versions took, where nothing is kept of general text."""
    copied(FIXTURE / "model", tmp_path / "model")
    # So many epochs that the batch that fits is 8, as it always was in earlier versions.
    desk = Desk(tmp_path, tmp_path / "model")
    flags = [
        "finetune", "--model_name_or_path", "model", "--train_file", "records.json", "--num_train_epochs", "250",
        "--report_samples", "0", "--no_keep_general", "--save_steps", "2", "--max_steps", "3", "--output_dir",
    ]  # fmt: skip
    assert desk.run(*flags, "run")[0] == 0
    (tmp_path / "part").mkdir()
    copied(tmp_path / "run" / "checkpoint-2", tmp_path / "part" / "checkpoint-2")
    status, said = desk.run(*flags, "part", "--resume_from_checkpoint", "auto")
    assert status == 0, said
    assert "going on from part/checkpoint-2" in said
    assert digest(tmp_path / "part") == digest(tmp_path / "run")
    assert "earlier version" not in said
