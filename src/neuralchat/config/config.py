"""The arguments of a run as typed data, and transformers' TrainingArguments made from them."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from neuralchat.config.arguments import DataArguments, DistributedArguments, ModelArguments, TuningArguments
from neuralchat.config.config_file import CONFIG_ENDINGS
from neuralchat.errors import ArgumentsError

SECRET_ARGUMENTS = ("use_auth_token", "hub_token")


class TrainingFlags(TrainingArguments):
    """The fields of TrainingArguments as they were given: nothing is derived from them, no device is touched."""

    def __post_init__(self) -> None:
        pass

    def values(self) -> dict[str, Any]:
        """Every field by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """All arguments of a run. `given` names what the user set; `bf16` is ours, see models/loading/precision.py."""

    model: ModelArguments
    data: DataArguments
    tuning: TuningArguments
    distributed: DistributedArguments
    training: TrainingFlags
    given: frozenset[str]
    prog: str = dataclasses.field(default="neuralchat finetune", compare=False)
    # The words of the command, without what would delete the run or name a checkpoint.
    words: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    # What the user should know of how the arguments were read.
    notices: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def output_dir(self) -> Path:
        return Path(str(self.training.output_dir))

    @property
    def bf16(self) -> bool:
        return bool(self.training.bf16)

    def training_arguments(self) -> TrainingArguments:
        """transformers' own dataclass. bf16 is left out of it: it would mean autocast."""
        values = {
            **self.training.values(),
            "bf16": False,
            "disable_tqdm": True,
            # The process group exists already; without a GPU accelerate would see no ranks unless told to use the CPU.
            "ddp_backend": None,
            "use_cpu": self.training.use_cpu or not torch.cuda.is_available(),
        }
        try:
            return TrainingArguments(**values)
        except (ValueError, ImportError, OSError) as error:
            raise ArgumentsError(f"the training arguments are refused: {error}") from error

    def as_dict(self) -> dict[str, Any]:
        """Our arguments and the training arguments that were set or differ from transformers'; never a secret."""
        usual = {f.name: f.default for f in dataclasses.fields(TrainingArguments)}
        return {
            name: value
            for name, value in self.every_value().items()
            if name not in usual or name in self.given or value != usual[name]
        }

    def every_value(self) -> dict[str, Any]:
        """All arguments by name, as JSON knows them; never a secret."""
        parts = (self.model, self.data, self.tuning, self.distributed)
        own = {name: value for part in parts for name, value in dataclasses.asdict(part).items()}
        both = {**own, **self.training.values()}
        return {name: value for name, value in both.items() if name not in SECRET_ARGUMENTS}

    def command_to_resume(self) -> str:
        """What to type to go on with this run."""
        words = [*self.words, "--resume_from_checkpoint", "auto"]
        if self.tuning.overwrite_output_dir and words[0].endswith(CONFIG_ENDINGS):
            # The file may say so.
            words += ["--overwrite_output_dir", "false"]
        program = ["python", sys.argv[0]] if self.prog.endswith(".py") else self.prog.split()
        return shlex.join([*program, *words])
