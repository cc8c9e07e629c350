"""The words of `neuralchat data preview` -> what is to be shown, and the words of the fine-tuning that it is about."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from neuralchat.config.command.flag_parser import FlagParser
from neuralchat.config.command.suggestions import did_you_mean, nearest
from neuralchat.config.command.words import PAIR, is_flag
from neuralchat.config.schema import SCHEMA
from neuralchat.data_tools.preview.flags import add_preview_flags
from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.runs.output_files import ReportKind, report_problems

PROG = "neuralchat data preview"
# A first word with such an ending is finetune's; JSON is rather a file of records.
YAML_ENDINGS = (".yaml", ".yml")
# What chooses among examples, and makes no sense beside --step.
CHOOSERS = ("index", "longest", "shortest", "random", "cut")


def split_words(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(preview's own options, the words of finetune). Files before the first flag are what --train_file names.

    >>> own, rest = split_words(["a.json", "--longest", "2", "--model_name_or_path", "m", "seed=1"])
    >>> own.longest, rest
    (2, ['--model_name_or_path', 'm', 'seed=1', '--train_file', 'a.json'])
    """
    parser = FlagParser(prog=PROG)
    add_preview_flags(parser)
    own_names = [flag.removeprefix("--") for flag in parser.flags if flag.startswith("--")]
    own: list[str] = []
    rest: list[str] = []
    files: list[str] = []
    problems: list[str] = []
    into = files
    for position, word in enumerate(words):
        if word.startswith("--"):
            name = word[2:].partition("=")[0]
            into = own if name.replace("-", "_") in own_names else rest
            meant = nearest(name.replace("-", "_"), own_names)
            if into is rest and meant and not is_flag(name.replace("-", "_"), SCHEMA):
                problems.append(f"unknown flag --{name}{did_you_mean(meant)}")
            into.append(word)
        elif into is not rest and (is_pair(word) or (not position and word.endswith(YAML_ENDINGS))):
            rest.append(word)
        else:
            into.append(word)
    if problems:
        raise ArgumentsError(problem_list(f"{PROG} cannot be run so:", problems))
    options = parser.parse_args(own)
    check_options(options)
    return options, [*rest, *(["--train_file", *files] if files else [])]


def is_pair(word: str) -> bool:
    """Whether a word is finetune's name=value."""
    pair = PAIR.fullmatch(word)
    return pair is not None and is_flag(pair[1], SCHEMA)


def check_options(options: argparse.Namespace) -> None:
    """Raise ArgumentsError for what contradicts itself."""
    problems = [
        f"--{name} is {value}; it counts examples, from 1"
        for name in CHOOSERS
        if name != "index" and (value := getattr(options, name)) is not None and value < 1
    ]
    chosen = [f"--{name}" for name in CHOOSERS if getattr(options, name)]
    if options.step and chosen:
        problems.append(f"--step shows all that is in a step: leave out {' and '.join(chosen)}")
    if options.step and options.held_out:
        problems.append("--step shows what is trained on, which held-out records are not: leave out --held_out")
    problems += report_problems([("--page", options.page, ReportKind.PAGE)])
    problems += [f"--step {step}: steps are counted from 1" for step in options.step if step < 1]
    if problems:
        raise ArgumentsError(problem_list(f"{PROG} cannot be run so:", problems))
