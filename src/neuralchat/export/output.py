"""A new directory for what is exported: all of its files, or none of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuralchat.errors import RunDirectoryError, system_error_in, system_error_line
from neuralchat.files import WRITING, kind_of_mode, make_directory, remove_if_empty
from neuralchat.runs.directory import is_plain, nearest_existing, why_unwritable
from neuralchat.runs.output_files import why_not_taken, why_not_within
from neuralchat.working_directories import place_files, undo_abandoned, working_directory_in

EXPORT_PREFIX = f"{WRITING}-"


def check_output(output: Path, run: str, flag: str = "--output") -> None:
    """Raise RunDirectoryError unless `output` is a new directory, or an empty one, that can be written, and lies in no
    run or model. `run`: what is exported.
    """
    if not is_plain(str(output)):
        raise RunDirectoryError(f"{flag} {output} is not UTF-8, or too long, and no library can write there")
    undo_abandoned(output, EXPORT_PREFIX)
    if os.path.exists(output) and not os.path.isdir(output):
        what = kind_of_mode(os.stat(output).st_mode)
        raise RunDirectoryError(f"{flag} {output} is {what}, not a directory; name a directory that is new")
    if output.exists() and any(output.iterdir()):
        raise RunDirectoryError(f"{flag} {output} is not empty; name a directory that is new")
    if reason := why_not_within(output, [("the run", run)]):
        raise RunDirectoryError(f"{flag} {output} {reason}; name a directory outside of it")
    if reason := why_unwritable(output) or why_not_taken(nearest_existing(output.absolute()) / output.name):
        raise RunDirectoryError(f"{flag} {output} cannot be written: {reason}")


@contextmanager
def placed_files(output: Path, *, last: str, what: str, flag: str = "--output") -> Iterator[Path]:
    """A working directory, whose files are in `output` when the block has ended well; otherwise none is, and a
    directory that was made for them is gone.

    `last`: the file that makes a model of the directory, which comes last. Killed on the way, it leaves no model, and
    the next export into `output` deletes what it left. Raises RunDirectoryError; `what` is what is then missing.
    """
    is_new = not output.exists()
    try:
        make_directory(output)
        with working_directory_in(output, EXPORT_PREFIX) as work:
            yield work
            if any(path != work for path in output.iterdir()):
                raise RunDirectoryError(f"{flag} {output} is not empty any more; name a directory that is new")
            names = sorted((file.name for file in work.iterdir()), key=lambda name: (name == last, name))
            place_files(work, output, names)
    except BaseException as error:
        if is_new:
            remove_if_empty(output)
        if (refused := system_error_in(error)) is None:
            raise
        raise RunDirectoryError(
            f"{flag} {output} cannot be written: {system_error_line(refused)}; there is no {what}"
        ) from error
