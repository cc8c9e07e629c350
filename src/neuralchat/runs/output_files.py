"""Files that a command is told to write: refused before anything is computed where something would be lost by it.

One rule for all verbs. Nothing that is there is overwritten, but a report of this program by a newer one of its kind;
no file is put into a run or a model, nor into a directory that the command reads; and the disk takes a file there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from neuralchat.errors import ArgumentsError, NeuralChatError, problem_list, system_error_in, system_reason
from neuralchat.files import kind_of_mode, try_writing, write_file
from neuralchat.runs.directory import IDENTITY, MANIFEST, METRICS, checkpoints, is_plain, json_text, why_unwritable


class ReportKind(Enum):
    """As messages call them."""

    JSON = "a JSON report"
    PAGE = "a page"


# By these a report is known as one of this program: the first key of JSON, the last line of a page.
JSON_MARK, PAGE_MARK = '"written_by": "neuralchat"', "<!-- written by neuralchat -->"
MARKED_BYTES = 200
ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", "config.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*", "*.gguf")

# (how a message calls it, where it is).
Input = tuple[str, str | os.PathLike[str]]
# (flag, name or None, what will be written there).
NamedReport = tuple[str, str | None, ReportKind]


def check_output_files(
    named: Sequence[NamedReport], inputs: Sequence[Input] = (), *, title: str = "these cannot be written:"
) -> None:
    """Raise ArgumentsError with all that is wrong with reports to be written."""
    problems = report_problems(named, inputs)
    if problems:
        text = problems[0] if len(problems) == 1 else problem_list(title, problems)
        raise ArgumentsError(text, problems=problems)


def report_problems(named: Sequence[NamedReport], inputs: Sequence[Input] = ()) -> list[str]:
    """The same as a list. An earlier report of the same kind may be there, and is replaced."""
    problems: list[str] = []
    seen: dict[Path, str] = {}
    for flag, name, kind in named:
        if name is None:
            continue
        place = real_place(Path(name))
        if place in seen:
            problems.append(f"{seen[place]} and {flag} name one file, {name}; give each its own")
        seen[place] = flag
        problems += file_problems(flag, name, inputs, replaces=kind)
    return problems


def file_problems(
    flag: str,
    name: str,
    inputs: Sequence[Input] = (),
    *,
    replaces: ReportKind | None = None,
    goes_on: bool = False,
    appends: bool = False,
) -> list[str]:
    """What keeps one file from being written; at most one problem.

    `replaces`: an earlier report of this program may be there, of this kind, or an empty file. `goes_on`: any file may
    be there, whose content the command looks at by itself; `appends`: the same, and it gets more lines where it is, so
    that its directory may be closed.
    """
    path, shown = Path(name), f"{flag} {name}"
    if not is_plain(name):
        return [f"{flag}: the name is not UTF-8, or too long"]
    if not os.path.isdir(path.absolute().parent):
        return [f"{shown}: the directory {path.parent} does not exist"]
    if (read := input_at(path, inputs)) is not None:
        return [f"{shown} is {read} itself, which is read; name another file"]
    if os.path.isdir(path):
        return [f"{shown} is a directory; name a file"]
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        pass
    except OSError as error:
        # A name that is too long, for one.
        return [f"{shown} cannot be written: {system_reason(error)}"]
    else:
        if not stat.S_ISREG(mode):
            return [f"{shown} is {kind_of_mode(mode)}, not a file; name a new file"]
    if reason := why_not_within(path, inputs):
        return [f"{shown} {reason}; name a place outside of it"]
    if path.exists() and not (goes_on or appends):
        if replaces is None:
            return [f"{shown} exists already; name a new file, nothing is overwritten"]
        found = kind_of_report(path)
        if path.stat().st_size and found is not replaces:
            what = "no report of this program" if found is None else f"{found.value} of this program"
            return [
                f"{shown} exists already and is {what}; name a new file, only {replaces.value} of this program is "
                "replaced by a newer one"
            ]
    if reason := why_unwritable(path) or (None if appends and path.exists() else why_not_taken(path)):
        return [f"{shown} cannot be written: {reason}"]
    return []


def inputs_of_records(files: Sequence[str], held_out: Sequence[str] = (), model: str | None = None) -> list[Input]:
    """What commands about records read."""
    return [
        *(("the file", name) for name in files),
        *(("--validation_file", name) for name in held_out),
        *([("--model_name_or_path", model)] if model else []),
    ]


def real_place(path: Path) -> Path:
    """Where a file would be, whatever links lead to its directory."""
    return path.absolute().parent.resolve() / path.name


def input_at(path: Path, inputs: Sequence[Input]) -> str | None:
    """What the message calls the input that is this very file, by whatever name; None where none is."""
    for called, read in inputs:
        if os.path.isfile(read) and (
            (os.path.exists(path) and os.path.samefile(path, read)) or real_place(path) == real_place(Path(read))
        ):
            return f"{called} {os.fspath(read)}"
    return None


def why_not_within(path: Path, inputs: Sequence[Input]) -> str | None:
    """What the directory is that nothing may be put in; None where it is no such one."""
    around = list(real_place(path).parents)
    for called, read in inputs:
        if os.path.isdir(read) and Path(read).resolve() in around:
            return f"lies in {called} {os.fspath(read)}, which is read"
    # Models not further up: a home or a project may hold a model's files beside much else.
    taken = next((place for place in around if is_run(place) or (place == around[0] and is_model(place))), None)
    return None if taken is None else f"lies in {taken}, which is a run or a model and holds its own files alone"


def is_run(place: Path) -> bool:
    """Finished or not; a checkpoint, or an adapter."""
    try:
        if any((place / name).is_file() for name in (MANIFEST, IDENTITY, ADAPTER_CONFIG)):
            return True
        return (place / METRICS).is_file() and bool(checkpoints(place))
    except OSError:
        return False


def is_model(place: Path) -> bool:
    try:
        return (place / MODEL_CONFIG).is_file() and any(next(place.glob(name), None) for name in WEIGHTS)
    except OSError:
        return False


def why_not_taken(path: Path) -> str | None:
    """Why the disk takes no file there, found by writing one and deleting it: permissions do not tell of a full one."""
    try:
        try_writing(path)
    except OSError as error:
        return system_reason(error)
    return None


# Reports


def kind_of_report(path: Path) -> ReportKind | None:
    """None of what this program did not write."""
    try:
        with path.open("rb") as stream:
            if JSON_MARK.encode() in stream.read(MARKED_BYTES):
                return ReportKind.JSON
            stream.seek(max(0, path.stat().st_size - MARKED_BYTES))
            return ReportKind.PAGE if PAGE_MARK.encode() in stream.read() else None
    except OSError:
        return None


def json_report(content: Mapping[str, Any]) -> str:
    """A report as JSON, by which it is known again."""
    return json_text({"written_by": "neuralchat", **content}, indent=1)


def page_report(page: str) -> str:
    """A page, by which it is known again."""
    return f"{page.rstrip()}\n{PAGE_MARK}\n"


def write_reports(reports: Sequence[tuple[str, str | None, Callable[[], str]]]) -> None:
    """(flag, name or None, what makes its text). Each is tried, whatever became of those before it.

    Raises NeuralChatError with all that could not be written, and why.
    """
    problems = []
    for flag, name, made in reports:
        if name is None:
            continue
        text = made()
        try:
            write_file(Path(name), text)
        except Exception as error:
            if (refused := system_error_in(error)) is None:
                raise
            problems.append(f"{flag} {name} cannot be written: {system_reason(refused)}")
    if problems:
        raise NeuralChatError("\n".join(problems))
