"""A directory that `save_to_disk` of datasets wrote -> raw rows: those of its Arrow files, one after another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuralchat.data.record_files.arrow_rows import read_arrow
from neuralchat.data.record_files.rows import RawRow, Rows, SyntaxProblem, readable
from neuralchat.files import is_plain_name, read_file

STATE, PARTS = "state.json", "dataset_dict.json"
# What is read of a directory that holds several data sets, where training asks for it.
TRAIN = "train"
MAX_STATE_BYTES = 1 << 20
SPLITS_SHOWN = 8


class SavedDataSetError(Exception):
    """What keeps a directory from being read as a data set; the text follows its name in a message."""


def is_saved_data_set(directory: Path) -> bool:
    return (directory / STATE).is_file() or (directory / PARTS).is_file()


def parts_of_data_set(directory: Path) -> list[str]:
    """The names of the data sets in a directory that holds several; none for any other directory."""
    if not (directory / PARTS).is_file():
        return []
    splits = data_set_content(directory / PARTS).get("splits")
    return [name for name in (splits if isinstance(splits, list) else []) if is_plain_name(name)]


def arrow_files(path: Path) -> list[Path]:
    """The files that hold the rows of a saved data set, in order; of several data sets those of `train`, or the only
    one's. A path that is no directory stands for itself. Raises SavedDataSetError.
    """
    if not path.is_dir():
        return [path]
    if parts := parts_of_data_set(path):
        if len(parts) > 1 and TRAIN not in parts:
            raise SavedDataSetError(f"holds the data sets {names_text(parts)}; name one: {path / parts[0]}")
        return arrow_files_of(path / (TRAIN if TRAIN in parts else parts[0]))
    return arrow_files_of(path)


def arrow_files_of(directory: Path) -> list[Path]:
    content = data_set_content(directory / STATE)
    entries = content.get("_data_files")
    names = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if not names or not all(map(is_plain_name, names)):
        raise SavedDataSetError(f"is no data set that can be read: {STATE} names no files in it")
    if content.get("_indices_data_files") or content.get("_indices_files"):
        raise SavedDataSetError("was saved by an early version of datasets; load it and save it again")
    return [directory / str(name) for name in names]


def read_saved(directory: Path) -> Rows:
    number = 0
    try:
        files = arrow_files(directory)
    except SavedDataSetError as error:
        yield SyntaxProblem(None, str(error), True)
        return
    for file in files:
        before = number
        try:
            for row in read_arrow(file):
                if isinstance(row, RawRow):
                    number = before + row.number
                    yield replace(row, number=number)
                else:
                    yield replace(row, row=row.row and before + row.row, what=f"{file.name}: {row.what}")
                    if row.fatal:
                        return
                    number = max(number, before + (row.row or 0))
        except OSError as error:
            yield SyntaxProblem(None, f"{file.name} cannot be read: {error.strerror or error}", True)
            return


def data_set_content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_file(file, MAX_STATE_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise SavedDataSetError(f"cannot be read as a data set: {file.name}: {reason}") from error
    if not isinstance(content, dict):
        raise SavedDataSetError(f"cannot be read as a data set: {file.name} must hold an object")
    return content


def names_text(names: list[str]) -> str:
    return ", ".join(map(readable, names[:SPLITS_SHOWN])) + (", ..." if len(names) > SPLITS_SHOWN else "")
