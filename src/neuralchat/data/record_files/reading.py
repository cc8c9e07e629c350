"""A file of records -> its raw rows, by the ending of its name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from neuralchat.config.arguments import RECORD_FIELDS
from neuralchat.data.record_files.arrow_rows import read_arrow, read_parquet
from neuralchat.data.record_files.json_lines import LineStretch, RowsOrStretches
from neuralchat.data.record_files.json_rows import read_json
from neuralchat.data.record_files.packed import (
    NOT_THE_FILE,
    PACKED_ENDINGS,
    PackedError,
    foreign_content,
    inner_ending,
    packing_of,
)
from neuralchat.data.record_files.rows import Rows, SyntaxProblem
from neuralchat.data.record_files.saved_data_set import is_saved_data_set, read_saved
from neuralchat.data.record_files.table_rows import read_table
from neuralchat.errors import DataError

# `fields`: names that tell a record from an object that holds records under one of its keys.
READERS: dict[str, Callable[[Path, Collection[str]], RowsOrStretches]] = {
    ".json": partial(read_json, by_line=False),
    ".jsonl": partial(read_json, by_line=True),
    ".ndjson": partial(read_json, by_line=True),
    ".csv": lambda path, _fields: read_table(path),
    ".tsv": lambda path, _fields: read_table(path, separator="\t"),
    ".parquet": lambda path, _fields: read_parquet(path),
    ".arrow": lambda path, _fields: read_arrow(path),
    ".feather": lambda path, _fields: read_arrow(path),
}

# Endings that people have instead -> what to do with them.
HOW_TO_SAVE = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "; save the sheet as CSV in UTF-8"),
    **dict.fromkeys((".txt", ".md"), '; texts to learn whole are written as JSON lines: {"text": "..."}'),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z"), "; unpack it"),
}
# Binary formats that pack by themselves.
PACKED_INSIDE = (".parquet", ".arrow", ".feather")


def read_rows(path: Path, fields: Collection[str] = RECORD_FIELDS) -> Rows:
    """Stream the rows of a file by its ending, or of a data set that was saved as a directory.

    Raises DataError for an ending that is not known.
    """
    for part in read_stretches(path, fields):
        if isinstance(part, LineStretch):
            yield from part.rows()
        else:
            yield part


def read_stretches(path: Path, fields: Collection[str] = RECORD_FIELDS) -> RowsOrStretches:
    """The same, with lines of JSON not yet decoded."""
    if path.is_dir():
        if is_saved_data_set(path):
            yield from read_saved(path)
        else:
            allowed = f"{', '.join(READERS)} files, or a directory that save_to_disk of datasets wrote"
            yield SyntaxProblem(None, f"is a directory without a data set in it; records may be {allowed}", True)
        return
    ending = inner_ending(path)
    reader = READERS.get(ending)
    if reader is None:
        raise DataError(
            f"{path}: records may be {', '.join(READERS)} files, packed as {' or '.join(PACKED_ENDINGS)} or not, "
            f"found '{path.suffix or path.name}'{HOW_TO_SAVE.get(ending, '')}"
        )
    try:
        if problem := content_problem(path, ending):
            yield SyntaxProblem(None, problem, True)
            return
        yield from reader(path, fields)
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        yield SyntaxProblem(None, f"is not UTF-8: byte {byte} cannot be decoded; save the file as UTF-8", True)
    except PackedError as error:
        yield SyntaxProblem(None, str(error), True)
    except OSError as error:
        yield SyntaxProblem(None, f"cannot be read: {error.strerror or error}", True)


def content_problem(path: Path, ending: str) -> str | None:
    """What the first bytes say against reading the file by its ending."""
    found = foreign_content(path)
    if ending not in PACKED_INSIDE or found in NOT_THE_FILE:
        return found
    packing = packing_of(path)
    return f"is packed with {packing}; unpack it, {ending[1:]} files are packed inside" if packing else None
