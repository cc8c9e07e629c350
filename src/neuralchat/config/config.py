"""The arguments of a run as typed data: made from values of any source, checked once, never changed."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import TrainingArguments

from neuralchat.config.arguments import DataArguments, DistributedArguments, ModelArguments, TuningArguments
from neuralchat.config.checks import problems_of
from neuralchat.config.command.names import Named, merged_values, named
from neuralchat.config.command.words import words_of
from neuralchat.config.config_file import config_values
from neuralchat.config.conversion import BARE, converted
from neuralchat.config.from_run import values_of_run
from neuralchat.config.implied import implied_values
from neuralchat.config.methods import METHODS
from neuralchat.config.schema import PARTS, SCHEMA, Argument, Schema
from neuralchat.config.training_flags import TrainingFlags
from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.paths import expanded_path
from neuralchat.secrets import (
    hide_in_process_title,
    masked_words,
    remember_credentials,
    remember_environment,
    remember_secret,
    remembered,
    without_remembered,
)

# A value of --resume_from_checkpoint: go on if there is something to go on from, else begin; the first start of a job
# and each later one take the same command.
NEWEST_CHECKPOINT = "auto"
COMMAND = "neuralchat finetune"
# `prog` of a configuration that a Python program has made.
PYTHON_CALL = "neuralchat.finetune"


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """All arguments of a run, checked.

    `given` names what was set by the user, a config file or the run to repeat. What follows it tells where the values
    came from and is no part of what is compared.
    """

    model: ModelArguments
    data: DataArguments
    tuning: TuningArguments
    distributed: DistributedArguments
    training: TrainingFlags
    given: frozenset[str]
    schema: Schema = dataclasses.field(default=SCHEMA, compare=False, repr=False)
    prog: str = dataclasses.field(default=COMMAND, compare=False)
    # What the command line or the Python call itself said, and the file it began with.
    said: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    config_file: Path | None = dataclasses.field(default=None, compare=False)
    # What the user should know of how the arguments were read.
    notices: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @classmethod
    def from_values(
        cls,
        values: Mapping[str, Any],
        *,
        prog: str = COMMAND,
        config_file: Path | None = None,
        implied: Mapping[str, Any] = MappingProxyType({}),
        stray: Sequence[str] = (),
        unreadable: Sequence[str] = (),
        schema: Schema = SCHEMA,
    ) -> FinetuneConfig:
        """Checked arguments from names and values: texts, or what Python has for them (Path, int, bool, list, dict).

        None says nothing. `values` overrule the config file, and both overrule the run that from_run names; `implied`
        is what the command itself stands for. `stray`: words that had no name; `unreadable`: what was wrong with how
        the words were written. Raises ArgumentsError with all problems at once, RunDirectoryError if the run to repeat
        cannot be read.

        >>> config = FinetuneConfig.from_values(
        ...     {"model_name_or_path": "m", "train_file": Path("a.json"), "output_dir": "out", "do_train": True}
        ... )
        >>> config.data.train_file, config.training.learning_rate
        (['a.json'], 0.0003)
        """
        sources = all_sources(values, config_file, schema)
        remember_secrets_of(sources, schema)
        given = merged_values(implied, merged_values(*(source.values for source in sources)))
        guessed = {name: value for source in sources for name, value in source.guessed.items() if name not in given}
        typed, problems = typed_values(given, schema)
        typed |= typed_values({**given, **usable_guesses(guessed, schema)}, schema)[0]
        typed |= implied_values(typed, given)
        config = cls(
            **parts_of(typed, schema),
            given=frozenset({**given, **guessed}),
            schema=schema,
            prog=prog,
            said=sources[-1].values,
            config_file=config_file,
            notices=tuple(notice for source in sources for notice in source.notices),
        )
        problems = [
            *(problem for source in sources for problem in source.problems),
            *problems,
            *unreadable,
            *(f"'{word}' does not belong to any flag" for word in stray),
            *missing(config, config.given),
            *problems_of(config),
        ]
        if problems:
            raise ArgumentsError(problem_list("these arguments cannot be used:", problems))
        return dataclasses.replace(config, notices=(*config.notices, *config.without_effect()))

    def without_effect(self) -> Iterator[str]:
        """A notice for each argument that was given another value than its default and changes nothing here."""
        for name, argument in self.schema.arguments.items():
            if argument.facts.no_effect and name in self.given and self.value(argument) != argument.default:
                yield f"--{name} has no effect: {argument.facts.no_effect}"

    @property
    def output_dir(self) -> Path:
        return Path(str(self.training.output_dir))

    @property
    def bf16(self) -> bool:
        """Ours, see models/loading/precision.py; transformers' own would mean autocast."""
        return bool(self.training.bf16)

    def value(self, argument: Argument) -> Any:
        return getattr(getattr(self, argument.part), argument.name)

    def training_arguments(self) -> TrainingArguments:
        """transformers' own dataclass. bf16 is left out of it: it would mean autocast."""
        values = {
            **self.training.values(),
            # Trackers write it to files.
            "run_name": without_remembered(self.training.run_name or "") or None,
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

    def every_value(self) -> dict[str, Any]:
        """All arguments by name, as JSON knows them; never a secret."""
        return {name: self.value(a) for name, a in self.schema.arguments.items() if not a.facts.secret}

    def as_dict(self) -> dict[str, Any]:
        """Our arguments and the training arguments that were set or differ from transformers'; never a secret."""
        arguments = self.schema.arguments
        return {
            name: value
            for name, value in self.every_value().items()
            if arguments[name].part != "training" or name in self.given or value != arguments[name].field_default
        }

    def deciding_values(self) -> dict[str, Any]:
        """The arguments that change the result of training, by name."""
        return {n: v for n, v in self.every_value().items() if self.schema.arguments[n].facts.changes_result}

    def with_values(self, values: Mapping[str, Any]) -> FinetuneConfig:
        """The same with other values of some arguments, which count as given."""
        parts = {part: {n: v for n, v in values.items() if self.schema.arguments[n].part == part} for part in PARTS}
        changed = {part: dataclasses.replace(getattr(self, part), **new) for part, new in parts.items() if new}
        return dataclasses.replace(self, given=self.given | frozenset(values), **changed)

    def resumed(self) -> FinetuneConfig:
        """The same run, going on from its newest checkpoint instead of replacing what is there."""
        return dataclasses.replace(
            self,
            training=dataclasses.replace(self.training, resume_from_checkpoint=NEWEST_CHECKPOINT),
            tuning=dataclasses.replace(self.tuning, overwrite_output_dir=False),
        )

    def command_to_resume(self, **more: Any) -> str:
        """What to type to go on with this run; `more` are arguments to add."""
        if self.prog == PYTHON_CALL:
            # The records may be objects of the program, so the call cannot be written down whole.
            taken_back = {"overwrite_output_dir": False} if self.tuning.overwrite_output_dir else {}
            said = {"resume_from_checkpoint": NEWEST_CHECKPOINT, **taken_back, **more}
            return f"{PYTHON_CALL}(..., {', '.join(f'{name}={value!r}' for name, value in said.items())})"
        said = {name: value for name, value in self.said.items() if self.schema.arguments[name].facts.resumed}
        said["resume_from_checkpoint"] = NEWEST_CHECKPOINT
        if self.config_file is not None and self.tuning.overwrite_output_dir:
            # The file may say so.
            said["overwrite_output_dir"] = False
        program = ["python", sys.argv[0]] if self.prog.endswith(".py") else self.prog.split()
        file = [] if self.config_file is None else [str(self.config_file)]
        kept = {name: value for name, value in said.items() if name not in more}
        added = {name: BARE if value is True else value for name, value in more.items()}
        # A token is given again by whoever types the command.
        return shlex.join([*program, *file, *masked_words(words_of({**kept, **added}))])


def all_sources(values: Mapping[str, Any], config_file: Path | None, schema: Schema) -> tuple[Named, Named, Named]:
    """The run to repeat, the config file, and `values`: what stands later overrules."""
    file = named({} if config_file is None else config_values(config_file), schema)
    own = named(values, schema)
    run = merged_values(file.values, own.values).get("from_run")
    # A value of another type is refused where it is converted.
    repeated, notices = (
        values_of_run(expanded_path(run), schema) if isinstance(run, str | Path) and str(run) else ({}, [])
    )
    of_run = named(repeated, schema)
    of_run.notices += notices
    return of_run, file, own


def remember_secrets_of(sources: Sequence[Named], schema: Schema) -> None:
    """Before anything is said of them: no message, log or file quotes a token, however it was given."""
    remember_environment(os.environ)
    for source in sources:
        for name, value in source.values.items():
            if schema.arguments[name].facts.secret:
                remember_secret(value)
            for text in value if isinstance(value, list | tuple) else [value]:
                remember_credentials(str(text))
    hide_in_process_title(sorted(remembered))


def typed_values(given: Mapping[str, Any], schema: Schema) -> tuple[dict[str, Any], list[str]]:
    """Every argument in its type, and what could not be read; its default stands in for it."""
    typed = {name: argument.default for name, argument in schema.arguments.items()}
    problems = []
    for name, value in given.items():
        try:
            typed[name] = converted(schema.arguments[name], value)
        except ValueError as error:
            problems.append(f"--{name}: {error}")
    if typed["learning_rate"] is None and typed["peft"] in METHODS:
        typed["learning_rate"] = METHODS[typed["peft"]].learning_rate
    return typed, problems


def usable_guesses(guessed: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """What names that are not known were meant to say, where ours can say it: other tools' values may be others."""
    usable = {}
    for name, value in guessed.items():
        argument = schema.arguments[name]
        try:
            found = converted(argument, value)
        except ValueError:
            continue
        if not argument.choices or argument.facts.pairs or found in argument.choices:
            usable[name] = value
    return usable


def parts_of(typed: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """The dataclass of each part, filled."""
    return {part: getattr(schema, part)(**{a.name: typed[a.name] for a in schema.of_part(part)}) for part in PARTS}


def missing(config: FinetuneConfig, given: Collection[str]) -> list[str]:
    return [
        f"--{name} is missing: {argument.facts.required}"
        for name, argument in config.schema.arguments.items()
        if argument.facts.required and config.value(argument) is None and name not in given
    ]
