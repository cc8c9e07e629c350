"""The parser of a verb with a few flags: argparse, whose errors are ours and say what was probably meant."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from neuralchat.config.command.suggestions import VERBS_OF_OTHER_TOOLS, did_you_mean, nearest
from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.paths import expanded

ALIASES = MappingProxyType(
    {
        "temp": "temperature",
        "max_tokens": "max_new_tokens",
        "max_length": "max_new_tokens",
        "max_new": "max_new_tokens",
        "penalty": "repetition_penalty",
        "question": "prompt",
        "ask": "prompt",
        "system_prompt": "system",
        "base": "base_model",
        "model_name_or_path": "base_model",
        "chat_template": "template",
        "data": "questions",
        "file": "questions",
        "out": "output",
        "output_dir": "output",
    }
)


class RaisingParser(argparse.ArgumentParser):
    """Raises ArgumentsError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentsError(f"{message} (see {self.prog} --help)")


class Once(argparse.Action):
    """A value that a second one must not replace silently."""

    def __call__(self, _parser: argparse.ArgumentParser, namespace: Any, values: Any, _flag: Any = None) -> None:
        if (known := getattr(namespace, self.dest)) is not None:
            raise argparse.ArgumentError(self, f"given twice, {known} and {values}; give it once")
        setattr(namespace, self.dest, values)


class FlagParser(RaisingParser):
    """Tells all unknown flags at once, and nothing else then; or else all impossible values. `--a-b` is taken for
    `--a_b`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        # Before argparse adds --help.
        self.flags: list[str] = []
        # What is wrong with values, of the command that is being read.
        self.wrong_values: list[str] = []
        # Of a verb that has verbs of its own.
        self.inner: Any = None
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def add_argument(self, *args: Any, **options: Any) -> argparse.Action:
        action = super().add_argument(*args, **options)
        self.flags += action.option_strings
        if action.type is not None or action.choices is not None:
            # argparse would end at the first.
            action.type = functools.partial(self.value_of, action, action.type or str)
        return action

    def value_of(self, action: argparse.Action, convert: Any, text: str) -> Any:
        """What `text` stands for; a stand-in where that is nothing, which is kept to be told."""
        name = "/".join(action.option_strings) or action.metavar or action.dest
        try:
            value = convert(text)
        except argparse.ArgumentTypeError as error:
            self.wrong_values.append(f"argument {name}: {error}")
        except (TypeError, ValueError):
            kind = convert.__name__ if isinstance(convert, type) else ""
            self.wrong_values.append(f"argument {name}: invalid {kind} value: {text!r:.80}")
        else:
            if action.choices is None or value in action.choices:
                return value
            choices = ", ".join(map(repr, action.choices))
            self.wrong_values.append(f"argument {name}: invalid choice: {value!r:.80} (choose from {choices})")
        return next(iter(action.choices)) if action.choices else None

    def add_subparsers(self, **options: Any) -> Any:
        self.inner = super().add_subparsers(**options)
        return self.inner

    def add_path(self, *names: str, **options: Any) -> argparse.Action:
        """An argument that names a file or directory, or may do so."""
        return self.add_argument(*names, type=expanded, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        inner = self.inner.choices.values() if self.inner else ()
        words, problems = checked_words(args or (), [*self.flags, *(flag for verb in inner for flag in verb.flags)])
        if problems:
            raise ArgumentsError(problem_list(f"{self.prog} cannot be run so:", problems))
        self.wrong_values = []
        try:
            found = super().parse_known_args(words, namespace)
        except ArgumentsError as error:
            self.tell_wrong_values([str(error)])
            raise
        self.tell_wrong_values()
        return found

    def tell_wrong_values(self, others: Sequence[str] = ()) -> None:
        if len(self.wrong_values) == 1 and not others:
            self.error(self.wrong_values[0])
        if self.wrong_values:
            raise ArgumentsError(problem_list(f"{self.prog} cannot be run so:", [*self.wrong_values, *others]))


def checked_words(words: Sequence[str], flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """(words with flags as they are known, what is wrong with the others)."""
    checked: list[str] = []
    problems: list[str] = []
    for position, word in enumerate(words):
        if word == "--":
            return [*checked, *words[position:]], problems
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            checked.append(word)
            continue
        known = name if name in flags else f"--{name[2:].replace('-', '_')}"
        if known not in flags:
            names = [flag.removeprefix("--") for flag in flags if flag.startswith("--")]
            problems.append(f"unknown flag {name}{did_you_mean(nearest(known[2:], names, ALIASES))}")
        checked.append(f"{known}{equals}{value}")
    return checked, problems


def verb_of(words: Sequence[str], verbs: Sequence[str], flags: Sequence[str]) -> str | None:
    """The verb that a command begins with; None where it begins with a flag that is known.

    Raises ArgumentsError for a command that is empty or begins with something unknown.
    """
    if not words:
        raise ArgumentsError(f"say what to do: one of {', '.join(verbs)} (see neuralchat --help)")
    word = words[0]
    if word in verbs:
        return word
    if word in flags:
        return None
    if word.startswith("-"):
        meant = nearest(word.strip("-"), [flag.removeprefix("--") for flag in flags if flag.startswith("--")])
        begins = "" if meant else f"; a command begins with one of {', '.join(verbs)}"
        raise ArgumentsError(f"unknown flag {word}{did_you_mean(meant)}{begins}")
    meant = nearest(word, verbs, VERBS_OF_OTHER_TOOLS)
    raise ArgumentsError(f"unknown command '{word}'{did_you_mean(meant, '')} (there are: {', '.join(verbs)})")
