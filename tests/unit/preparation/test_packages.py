"""preparation/packages.py: what a flag needs and what is not there is told before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import ROWS
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from neuralchat.config.config import FinetuneConfig
from neuralchat.errors import ArgumentsError
from neuralchat.preparation.optimizer import make_optimizer, make_scheduler
from neuralchat.preparation.packages import TRACKERS, check_packages, is_installed, package_of_optimizer


def config(**values: Any) -> FinetuneConfig:
    usual = {"model_name_or_path": "m", "train_file": "a.json", "output_dir": "o", "do_train": True}
    return FinetuneConfig.from_values({**usual, **values})


def test_every_tracker_of_transformers_has_its_package() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(TRACKERS) == set(INTEGRATION_TO_CALLBACK)


@pytest.mark.parametrize("name", [name for name in TRACKERS if name != "tensorboard"])
def test_a_tracker_that_is_not_here(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if TRACKERS[name].module.partition(".")[0] in packages_distributions():
        pytest.skip("it is here")
    with pytest.raises(ArgumentsError, match=rf"--report_to {name} needs the package '\w+': pip install \S+"):
        check_packages(config(report_to=name))


def test_what_is_here_or_not_asked_for() -> None:
    for trackers in ("none", "all", "tensorboard", ["tensorboard"], []):
        check_packages(config(report_to=trackers))


def test_names_that_are_wrong() -> None:
    with pytest.raises(ArgumentsError) as caught:
        check_packages(config(report_to=["wanbd", "none"], optim="lion_8bit"))
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("  - --report_to is 'wanbd'; did you mean wandb?")
    assert lines[2] == "  - --report_to none stands alone, found wanbd, none"
    assert lines[3] == "  - --optim lion_8bit needs the package 'bitsandbytes': pip install bitsandbytes"


@pytest.mark.parametrize("name", [member.value for member in OptimizerNames])
def test_an_optimizer_works_or_its_package_is_named(name: str, tmp_path: Path) -> None:
    """transformers itself says which it cannot make here."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    args = TrainingArguments(
        output_dir=str(tmp_path), optim=name, use_cpu=True, report_to="none", optim_target_modules=["0"]
    )
    package = package_of_optimizer(name)
    if package is None or is_installed(package.module):
        make_optimizer(model, args)
        check_packages(config(optim=name))
        return
    with pytest.raises(ArgumentsError, match=f"--optim {name} cannot be used: "):
        make_optimizer(model, args)
    with pytest.raises(ArgumentsError, match=f"--optim {name} needs the package"):
        check_packages(config(optim=name))


def test_what_a_library_refuses_is_no_traceback(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", lr_scheduler_type="cosine_with_min_lr"
    )
    with pytest.raises(ArgumentsError, match=r"--lr_scheduler_type cosine_with_min_lr cannot be used: .*min_lr"):
        make_scheduler(make_optimizer(model, args), args, 10)


def test_before_anything_is_loaded(
    run_cli: Callable[..., Any], write_records: Callable[..., Path], tmp_path: Path
) -> None:
    result = run_cli(
        "finetune", "--model_name_or_path", "not-looked-for", "--train_file", write_records(ROWS), "--output_dir",
        "run", "--report_to", "wandb,mlflow", "--optim", "paged_adamw_8bit",
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.splitlines()[-4:] == [
        "error: these arguments need what is not here:",
        "  - --report_to wandb needs the package 'wandb': pip install wandb",
        "  - --report_to mlflow needs the package 'mlflow': pip install mlflow",
        "  - --optim paged_adamw_8bit needs the package 'bitsandbytes': pip install bitsandbytes",
    ]
    assert not (tmp_path / "run").exists()
