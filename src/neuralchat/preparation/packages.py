"""Packages that a flag needs and that may not be there: looked for before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from neuralchat.config.command.suggestions import did_you_mean, nearest
from neuralchat.config.command.words import word
from neuralchat.config.config import FinetuneConfig
from neuralchat.errors import ArgumentsError, problem_list


@dataclass(frozen=True)
class Package:
    """`module`: what is imported. `install`: what to give pip. `variable`: of the environment, where one is needed."""

    module: str
    install: str
    variable: str = ""


TENSORBOARD = Package("tensorboard", "'neuralchat[tensorboard]'")
ROUGE = Package("rouge_score", "'neuralchat[rouge]'")
# A value of --report_to -> what it needs.
TRACKERS = {
    "azure_ml": Package("azureml.core", "azureml-sdk"),
    "clearml": Package("clearml", "clearml"),
    "codecarbon": Package("codecarbon", "codecarbon"),
    "comet_ml": Package("comet_ml", "comet-ml"),
    "dagshub": Package("dagshub", "dagshub", variable="MLFLOW_TRACKING_URI"),
    "dvclive": Package("dvclive", "dvclive"),
    "flyte": Package("flytekit", "flytekit"),
    "kubeflow": Package("kubeflow", "kubeflow", variable="KUBEFLOW_TRAINER_SERVER_URL"),
    "mlflow": Package("mlflow", "mlflow"),
    "neptune": Package("neptune", "neptune"),
    "swanlab": Package("swanlab", "swanlab"),
    "tensorboard": TENSORBOARD,
    "trackio": Package("trackio", "trackio"),
    "wandb": Package("wandb", "wandb"),
}
BITSANDBYTES = Package("bitsandbytes", "bitsandbytes")
TORCHAO = Package("torchao", "torchao")
# The beginning of a value of --optim -> what it needs; the first that fits. Others are torch's own or transformers'.
OPTIMIZERS = {
    "adamw_torch_xla": Package("torch_xla", "torch_xla"),
    "adamw_torch_npu": Package("torch_npu", "torch-npu"),
    "adamw_torch_4bit": TORCHAO,
    "adamw_torch_8bit": TORCHAO,
    "adamw_anyprecision": Package("torchdistx", "git+https://github.com/pytorch/torchdistx"),
    "adamw_bnb": BITSANDBYTES,
    "adamw_8bit": BITSANDBYTES,
    "ademamix": BITSANDBYTES,
    "lion": BITSANDBYTES,
    "paged": BITSANDBYTES,
    "rmsprop_bnb": BITSANDBYTES,
    "galore": Package("galore_torch", "galore-torch"),
    "apollo": Package("apollo_torch", "apollo-torch"),
    "lomo": Package("lomo_optim", "lomo-optim"),
    "adalomo": Package("lomo_optim", "lomo-optim"),
    "grokadamw": Package("grokadamw", "grokadamw"),
    "schedule_free": Package("schedulefree", "schedulefree"),
    "stable_adamw": Package("optimi", "torch-optimi"),
}


def check_packages(arguments: FinetuneConfig) -> None:
    """Raises ArgumentsError for everything that is asked for and cannot be had, all at once."""
    optimizer = word(arguments.training.optim)
    problems = [
        *tracker_problems(arguments.training.report_to),
        *package_problems(f"--optim {optimizer}", package_of_optimizer(optimizer)),
        *package_problems("--predict_with_generate", ROUGE if arguments.tuning.predict_with_generate else None),
    ]
    if problems:
        raise ArgumentsError(problem_list("these arguments need what is not here:", problems))


def tracker_problems(trackers: str | list[str] | None) -> Iterator[str]:
    names = [trackers] if isinstance(trackers, str) else list(trackers or [])
    for name in names:
        if name in ("none", "all"):
            if len(names) > 1:
                yield f"--report_to {name} stands alone, found {', '.join(names)}"
        elif name in TRACKERS:
            yield from package_problems(f"--report_to {name}", TRACKERS[name])
        else:
            known = ("none", "all", *TRACKERS)
            yield (f"--report_to is '{name}'{did_you_mean(nearest(name, known), '')} (allowed are {', '.join(known)})")


def package_of_optimizer(name: str) -> Package | None:
    return next((package for beginning, package in OPTIMIZERS.items() if name.startswith(beginning)), None)


def package_problems(flag: str, package: Package | None) -> Iterator[str]:
    if package is None:
        return
    if not is_installed(package.module):
        yield f"{flag} needs the package '{package.module.partition('.')[0]}': pip install {package.install}"
    elif package.variable and not os.environ.get(package.variable):
        yield f"{flag} needs the environment variable {package.variable}"


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # The package that a module would be in is not there.
        return False
