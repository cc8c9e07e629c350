"""What is wrong with the flags of `neuralchat data generate`, all at once, before anybody is asked."""

from __future__ import annotations

import argparse
from pathlib import Path

from neuralchat.data_tools.generating.teaching.journal import JOURNAL_ENDING
from neuralchat.errors import ArgumentsError, problem_list
from neuralchat.files import read_file
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.terminal.server_bot import CLIENT_KEY_VARIABLE
from neuralchat.runs.output_files import Input, ReportKind, file_problems, real_place, report_problems
from neuralchat.secrets import remember_secret

OUTPUT_ENDINGS = (".jsonl",)
MOST_KEY_FILE_BYTES = 4096
READABLE_BY_OTHERS = 0o077


def check_generate_flags(options: argparse.Namespace) -> Sampling:
    """How the teacher draws. Raises ArgumentsError with all that is wrong."""
    wrong = [*teacher_problems(options), *number_problems(options), *money_problems(options)]
    wrong += output_problems(Path(options.output), options)
    sampling = Sampling()
    try:
        sampling = Sampling(
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed if options.temperature > 0 else None,
        )
    except ArgumentsError as error:
        wrong += str(error).split("\n")
    if wrong:
        raise ArgumentsError(problem_list("neuralchat data generate cannot be run so:", wrong))
    return sampling


def teacher_problems(options: argparse.Namespace) -> list[str]:
    wrong = []
    if (options.base_url is None) == (options.teacher is None):
        both = "not both" if options.base_url else "one of them is needed"
        wrong.append(f"--base_url asks an endpoint, --teacher a model on this machine: {both}")
    if options.teacher is not None:
        given = [f"--{name}" for name in ("model", "key_file", "budget", "token_budget") if getattr(options, name)]
        if given:
            wrong.append(f"{', '.join(given)}: for --base_url alone; a model on this machine costs nothing")
    if options.documents is None:
        if options.wordings != 1:
            wrong.append("--wordings needs --documents, whose facts are asked for in several wordings")
    else:
        given = [f"--{name}" for name in ("seeds",) if getattr(options, name)] + ["--turns"] * (options.turns != 1)
        if given:
            wrong.append(f"{', '.join(given)}: not with --documents")
    if not options.domain.strip():
        wrong.append("--domain is empty; say what the records are to be about")
    return wrong


def number_problems(options: argparse.Namespace) -> list[str]:
    ranges = {
        "count": (1, None),
        "turns": (1, 8),
        "per_passage": (1, 20),
        "wordings": (1, 20),
        "critic": (1, 5),
        "patience": (1, None),
        "parallel": (1, 16),
        "token_budget": (1, None),
    }
    wrong = []
    for name, (least, most) in ranges.items():
        value = getattr(options, name)
        if value is not None and (value < least or (most is not None and value > most)):
            allowed = f"at least {least}" if most is None else f"from {least} to {most}"
            wrong.append(f"--{name} must be {allowed}, found {value}")
    # Written so that "nan" is refused as well.
    if not 0 < options.timeout < float("inf"):
        wrong.append(f"--timeout must be above 0, found {options.timeout}")
    if not 0 <= options.requests_per_minute < float("inf"):
        wrong.append(f"--requests_per_minute must not be negative, found {options.requests_per_minute}")
    return wrong


def money_problems(options: argparse.Namespace) -> list[str]:
    missing = [f"--price_{part}" for part in ("prompt", "answer") if getattr(options, f"price_{part}") is None]
    if options.budget is not None and missing:
        return [f"--budget needs {' and '.join(missing)}, per million tokens; --token_budget needs no prices"]
    return []


def output_problems(output: Path, options: argparse.Namespace) -> list[str]:
    if output.suffix not in OUTPUT_ENDINGS:
        return [f"--output {output}: its name must end in {OUTPUT_ENDINGS[0]}, it gets a line for each record"]
    inputs = inputs_of_generation(options)
    if problems := file_problems("--output", str(output), inputs, goes_on=True):
        return problems
    journal = output.with_name(output.name + JOURNAL_ENDING)
    if problems := file_problems("--output", str(journal), inputs, goes_on=True):
        return problems
    if problems := report_problems([("--report", options.report, ReportKind.JSON)], [*inputs, ("--output", output)]):
        return problems
    if options.report and real_place(Path(options.report)) in (real_place(output), real_place(journal)):
        return [f"--report {options.report} is --output or its journal {journal.name}; give each its own"]
    if output.exists() and output.stat().st_size and not journal.exists():
        return [
            f"--output {output} is there, and its journal {journal.name} is not: name another file, or move it away"
        ]
    return []


def inputs_of_generation(options: argparse.Namespace) -> list[Input]:
    """What it reads. Documents are of other endings than what it writes, so both may lie in one directory."""
    named = {name: getattr(options, name) for name in ("seeds", "documents", "key_file", "teacher")}
    return [
        (f"--{name}", read) for name, read in named.items() if read and (name != "documents" or Path(read).is_file())
    ]


def key_of_file(path: Path) -> str:
    """Raises ArgumentsError for a file that has none, or that others can read."""
    try:
        key = read_file(path, MOST_KEY_FILE_BYTES).decode().strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ArgumentsError(
            f"--key_file {path} cannot be read: {reason}; {CLIENT_KEY_VARIABLE} may hold the key"
        ) from error
    if not key or any(c.isspace() for c in key) or not key.isascii():
        raise ArgumentsError(f"--key_file {path} must hold the key and nothing else, on one line")
    if mode & READABLE_BY_OTHERS:
        raise ArgumentsError(f"--key_file {path} can be read by others: chmod 600 {path}")
    remember_secret(key)
    return key
