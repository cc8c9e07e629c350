"""Names of new files -> streams to write them; all are there when the work has ended well, otherwise none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from neuralchat.data.record_files.packed import PACKED_ENDINGS, inner_ending
from neuralchat.errors import ArgumentsError, DataError, problem_list, system_error_in, system_error_line
from neuralchat.files import WRITING, remove_file, replace_file, sync_directory
from neuralchat.runs.directory import is_plain
from neuralchat.runs.output_files import ReportKind, file_problems, inputs_of_records
from neuralchat.working_directories import sweep_abandoned, working_directory_in

MOVING_PREFIX = f"{WRITING}-data-"


def check_new_files(
    named: Sequence[tuple[str, str]],
    endings: Sequence[str],
    inputs: Sequence[str] = (),
    *,
    replaces: ReportKind | None = None,
) -> None:
    """Raise ArgumentsError with all that is wrong with files to be written. `named`: (flag, name); `inputs`: the files
    that are read; `replaces`: an earlier report of this kind may be there.
    """
    problems = []
    seen: set[Path] = set()
    for flag, name in named:
        path = Path(name)
        shown = f"{flag} {name}"
        packed_inside = path.suffix.lower() in PACKED_ENDINGS and inner_ending(path) == ".parquet"
        if not is_plain(name):
            problems.append(f"{flag}: the name is not UTF-8, or too long")
        elif inner_ending(path) not in endings or packed_inside:
            allowed = f"{', '.join(endings)} files, text also packed as {' or '.join(PACKED_ENDINGS)}"
            problems.append(f"{shown}: it can be written as {allowed}; found '{path.suffix or path.name}'")
        elif path.absolute() in seen:
            problems.append(f"{shown} is named twice")
        else:
            problems += file_problems(flag, name, inputs_of_records(inputs), replaces=replaces)
        seen.add(path.absolute())
    if problems:
        raise ArgumentsError(problem_list("these files cannot be written:", problems))


@contextmanager
def placed_outputs(names: Sequence[str]) -> Iterator[list[Path]]:
    """Paths of the same names in working directories; what was written there is moved to `names` at the end.

    Nothing is there after an error or Ctrl-C. What a killed process left is deleted by the next one. Raises DataError
    where the system refuses to write, or a name was taken meanwhile.
    """
    targets = [Path(name) for name in names]
    try:
        with ExitStack() as stack:
            for parent in {target.absolute().parent for target in targets}:
                sweep_abandoned(parent, MOVING_PREFIX)
            works = [
                stack.enter_context(working_directory_in(target.absolute().parent, MOVING_PREFIX)) / target.name
                for target in targets
            ]
            yield works
            place_all(works, targets)
    except Exception as error:
        if (refused := system_error_in(error)) is None:
            raise
        raise DataError(f"the output cannot be written: {system_error_line(refused)}; nothing was kept") from error


def place_all(works: Sequence[Path], targets: Sequence[Path]) -> None:
    """Move each file to its target; all of them or none."""
    if taken := [str(target) for target in targets if target.exists()]:
        raise DataError(problem_list("these files appeared meanwhile, and are left as they are:", taken))
    placed: list[Path] = []
    try:
        for work, target in zip(works, targets, strict=True):
            replace_file(work, target)
            placed.append(target)
    except BaseException:
        for target in placed:
            remove_file(target)
        raise
    for parent in {target.absolute().parent for target in targets}:
        sync_directory(parent)
