"""planning/cautions.py: what will not work is told before it runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neuralchat.config.command.parser import parse
from neuralchat.config.config import FinetuneConfig
from neuralchat.config.schema import ORIGINAL_SCHEMA
from neuralchat.planning.cautions import cautions


def told(tmp_path: Path, *, batch: int = 8, units: int = 400, max_steps: int = 150, **values: Any) -> list[str]:
    usual = {"model_name_or_path": "m", "train_file": "a.json", "output_dir": str(tmp_path), "do_train": True}
    arguments = FinetuneConfig.from_values({**usual, "use_cpu": True, "validation_file": "b.json", **values})
    usual_rate = arguments.tuning.method.learning_rate
    plan: Any = SimpleNamespace(units_per_step=batch, units=range(units))
    return list(cautions(arguments, arguments.training_arguments(), plan, max_steps, cpus=2, usual_rate=usual_rate))


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
        ({"warmup_steps": 200}, "the learning rate warms up for 200 steps, the run has 150, so that it never"),
        ({"dataloader_num_workers": 9}, "--dataloader_num_workers 9 is more than the 2 CPU(s) of this process"),
        ({"eval_steps": 500}, "--eval_steps 500 is more than the 150 steps of the run"),
    ],
)
def test_what_cannot_work(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    (text,) = told(tmp_path, **changes)
    assert text.startswith(expected)


def test_a_warm_up_that_is_longer_than_a_short_run(tmp_path: Path) -> None:
    few, warm_up = told(tmp_path, max_steps=2, warmup_steps=100)
    assert few.startswith("only 2 optimizer step(s)")
    assert warm_up.startswith(
        "the learning rate warms up for 100 steps, the run has 2, so that it never reaches 0.0003"
    )
    assert len(told(tmp_path, max_steps=2, warmup_steps=1)) == 1


def original(tmp_path: Path, *flags: str) -> list[str]:
    """What is told of a run of the original's script."""
    words = [
        "--model_name_or_path",
        "m",
        "--train_file",
        "a.json",
        "--output_dir",
        str(tmp_path),
        "--use_cpu",
        "--do_train",
        *flags,
    ]
    arguments = parse(words, prog="finetune_clm.py", implied=(), schema=ORIGINAL_SCHEMA)
    plan: Any = SimpleNamespace(units_per_step=8, units=range(400))
    return list(cautions(arguments, arguments.training_arguments(), plan, 150, cpus=2, usual_rate=0.0014))


def test_the_original_script_names_the_better_defaults_in_one_line(tmp_path: Path) -> None:
    told = original(tmp_path, "--lora_all_linear")
    assert len(told) == 1
    assert "--lora_rank 16 --lora_alpha 32 --keep_general True --learning_rate 0.0014" in told[0]
    assert "--lora_all_linear" not in told[0]
    assert original(tmp_path, "--peft", "prefix") == []
