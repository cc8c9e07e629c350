"""words of a command -> checked arguments: flags, a YAML or JSON file, and key=value, through one parser."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments

from neuralchat.config.arguments import (
    BACKENDS,
    LEARNING_RATES,
    REJECTED_TRAINING_ARGUMENTS,
    DataArguments,
    DistributedArguments,
    ModelArguments,
    TuningArguments,
    contradictions,
    process_problems,
)
from neuralchat.config.config import FinetuneConfig, TrainingFlags
from neuralchat.config.config_file import CONFIG_ENDINGS, config_flags
from neuralchat.config.from_run import flags_of_run
from neuralchat.config.legacy_flags import LEGACY_FLAGS, translate
from neuralchat.errors import ArgumentsError, problem_list

# Our defaults where they differ from transformers': nothing is sent to a tracker unless asked, and a non-finite
# loss is never hidden.
TRAINING_DEFAULTS = {
    "report_to": "none",
    "logging_nan_inf_filter": False,
    "logging_steps": 10,
    "learning_rate": None,
    "output_dir": None,
    "model_name_or_path": None,
}
NOT_TO_REPEAT = ("overwrite_output_dir", "resume_from_checkpoint", "local_rank")


class Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ArgumentsError(message)


def make_parser(prog: str) -> Parser:
    kinds: list[Any] = [ModelArguments, DataArguments, TuningArguments, DistributedArguments, TrainingArguments]
    parser = Parser(kinds, prog=prog, allow_abbrev=False)
    for action in parser._actions:
        # Missing ones are told together with all other problems.
        action.required = False
        if action.dest == "ddp_backend":
            action.choices = BACKENDS
    parser.set_defaults(**TRAINING_DEFAULTS)
    return parser


def parse(words: Sequence[str], *, prog: str, implied: Sequence[str]) -> FinetuneConfig:
    """Checked arguments. `implied` are flags that the command itself stands for (such as --do_train).

    Raises ArgumentsError with all problems at once.
    """
    parser = make_parser(prog)
    known = {name for action in parser._actions for name in action.option_strings}
    flags, notices = translate([*implied, *expand(words, known | {f"--{name}" for name in LEGACY_FLAGS})])
    problems = unknown_flags(flags, known)
    flags = dropped(flags, lambda name: name not in known)
    try:
        namespace, stray = parser.parse_known_args(flags)
    except ArgumentsError as error:
        raise ArgumentsError(problem_list("these arguments cannot be used:", [*problems, str(error)])) from None
    problems += [f"'{word}' does not belong to any flag" for word in stray]
    given = {name.lstrip("-").split("=")[0].replace("-", "_") for name in flags if name.startswith("--")}
    given |= {name.removeprefix("no_") for name in given if f"--{name}" in known and name not in vars(namespace)}
    values = vars(namespace)
    model = ModelArguments(**fields_of(ModelArguments, values))
    data = DataArguments(**fields_of(DataArguments, values))
    tuning = TuningArguments(**fields_of(TuningArguments, values))
    distributed = DistributedArguments(**fields_of(DistributedArguments, values))
    training = TrainingFlags(**fields_of(TrainingArguments, values))
    if training.learning_rate is None:
        training.learning_rate = LEARNING_RATES.get(tuning.peft)
    if model.model_name_or_path is None:
        problems.append("--model_name_or_path is missing: name a directory, a hub id or a fetched model")
    if training.output_dir is None:
        problems.append("--output_dir is missing: say where the run is to be saved")
    problems += rejected(training, given)
    problems += contradictions(data, tuning, training, given)
    problems += process_problems(distributed)
    if problems:
        raise ArgumentsError(problem_list("these arguments cannot be used:", problems))
    words = dropped(words, lambda name: name.lstrip("-").replace("-", "_") in NOT_TO_REPEAT)
    words = [word for word in words if word.partition("=")[0] not in NOT_TO_REPEAT]
    return FinetuneConfig(
        model, data, tuning, distributed, training, frozenset(given), prog, tuple(words), tuple(notices)
    )


def fields_of(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {f.name: values[f.name] for f in dataclasses.fields(kind) if f.init}


def expand(words: Sequence[str], known: set[str]) -> list[str]:
    """Config files and key=value words as flags, in order, so that what stands later wins.

    Directly after a flag, key=value is that flag's value unless the key is a flag of its own.
    """
    flags: list[str] = []
    words = with_run_to_repeat(words)
    for position, word in enumerate(words):
        after_flag = position > 0 and words[position - 1].startswith("--") and "=" not in words[position - 1]
        if position == 0 and word.endswith(CONFIG_ENDINGS) and not word.startswith("--"):
            flags += config_flags(Path(word))
        elif re.fullmatch(r"[A-Za-z_]\w*=.*", word, re.DOTALL) and (
            not after_flag or f"--{word.partition('=')[0]}" in known
        ):
            key, _, value = word.partition("=")
            # "key=" takes back what stood before it, such as a line of the config file.
            flags = [*flags, f"--{key}", value] if value else dropped(flags, f"--{key}".__eq__)
        else:
            flags.append(word)
    return flags


def with_run_to_repeat(words: Sequence[str]) -> list[str]:
    """The words, behind the arguments of the run that --from_run names; what the user writes overrules them."""
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("--from_run", "--from-run", "from_run"):
            run = value if equals else "".join(words[position + 1 : position + 2])
            if run:
                # A config file counts only as the first word.
                config = [words[0]] if words[0].endswith(CONFIG_ENDINGS) else []
                return [*config, *flags_of_run(Path(run)), *words[len(config) :]]
    return list(words)


def unknown_flags(flags: Sequence[str], known: set[str]) -> list[str]:
    problems = []
    for flag in flags:
        name = flag.split("=")[0]
        if flag.startswith("--") and name not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), sorted(known), n=1, cutoff=0.5)
            problems.append(f"unknown flag {name}" + (f"; did you mean {near[0].replace('_-', '-')}?" if near else ""))
    return problems


def dropped(flags: Sequence[str], unwanted: Callable[[str], bool]) -> list[str]:
    """The flags without those whose name is unwanted, and without their values."""
    kept: list[str] = []
    dropping = False
    for flag in flags:
        if flag.startswith("--"):
            dropping = unwanted(flag.split("=")[0])
        if not dropping:
            kept.append(flag)
    return kept


def rejected(training: TrainingFlags, given: set[str]) -> list[str]:
    defaults = {f.name: f.default for f in dataclasses.fields(TrainingArguments) if f.init}
    return [
        f"--{name} cannot be used: {reason}"
        for name, reason in REJECTED_TRAINING_ARGUMENTS.items()
        if name in given and getattr(training, name) not in (defaults[name], None, "", [])
    ]
