"""A data set of a hub, or a directory that the datasets library reads -> raw rows.

Whoever made it says by its metadata which files hold it and of which kind its columns are. Only files of its own are
read, in formats that hold text; what would be decoded as an image or a sound, which may lie anywhere, is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neuralchat.console import note
from neuralchat.data.example_store import fingerprint_of
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.record_files import RawRow, SyntaxProblem, readable
from neuralchat.data.record_files.rows import MAX_ROW_BYTES, too_large
from neuralchat.errors import DataError, NeuralChatError
from neuralchat.files import file_sha256

# The library's names of formats that hold text; "cache" is what it has kept of a data set when there is no network.
FORMATS = ("arrow", "csv", "json", "parquet", "text")
KEPT = "cache"
ROWS_AT_ONCE = 64
HUB = "hf://datasets/"


@dataclass(frozen=True)
class HubDataSet:
    """The split `train` of a data set. `name`: its id on the hub, or a directory."""

    name: str
    config: str | None = None
    cache_dir: str | None = None

    @cached_property
    def rows(self) -> Any:
        """A `datasets.Dataset` of the columns that hold text. Raises DataError."""
        import datasets

        with refused_data_set(self.name):
            builder = datasets.load_dataset_builder(self.name, self.config, cache_dir=self.cache_dir)
            self.check(builder)
            builder.download_and_prepare()
            rows = builder.as_dataset(split="train")
            other = [name for name, feature in rows.features.items() if is_decoded(feature)]
            if other:
                note(f"data set '{self.name}': columns that hold no text are not read: {', '.join(other)}")
            return rows.remove_columns(other)

    def check(self, builder: Any) -> None:
        """Raise DataError for a format that holds no text, and for files that are not the data set's own."""
        kind = builder.info.builder_name
        if kind not in (*FORMATS, KEPT, None):
            raise DataError(f"data set '{self.name}' is kept as {kind}; records can be read from {', '.join(FORMATS)}")
        own = os.path.realpath(os.path.expanduser(self.name)) + os.sep if os.path.isdir(self.name) else HUB
        for files in (builder.config.data_files or {}).values():
            for file in files:
                # A member of an archive: what follows the last :: is the archive.
                place = str(file).rpartition("::")[2]
                if not (place if own == HUB else os.path.normpath(place)).startswith(own):
                    raise DataError(
                        f"data set '{self.name}' says that its records are in {readable(place, 200)}, which is none of "
                        "its files; it is not read"
                    )

    def fingerprint(self) -> str:
        """By content: a data set may be another tomorrow under the same name."""
        with refused_data_set(self.name):
            files = [file_sha256(Path(file["filename"])) for file in self.rows.cache_files]
        return fingerprint_of("hub", self.name, *(files or [GivenRecords(self.name, self.rows).fingerprint()]))

    def raw_rows(self) -> Iterator[RawRow | SyntaxProblem]:
        """Numbered from 1."""
        arrow, number = self.rows.with_format("arrow"), 0
        try:
            for first in range(0, len(self.rows), ROWS_AT_ONCE):
                table = arrow[first : first + ROWS_AT_ONCE]
                sizes = [0] * len(table)
                if table.nbytes > MAX_ROW_BYTES:
                    sizes = [table.slice(i, 1).nbytes for i in range(len(table))]
                for size in sizes:
                    number += 1
                    if size > MAX_ROW_BYTES:
                        yield SyntaxProblem(number, too_large(), False)
                    else:
                        yield RawRow(number, dict(self.rows[number - 1]))
        except Exception as error:  # damaged values may make the library raise anything
            yield SyntaxProblem(None, f"cannot be read after row {number}: {line_of_error(error)}", True)


def is_decoded(feature: Any) -> bool:
    """Whether the library would make something else than text, numbers, lists and objects of a column, or of a part."""
    import datasets

    if isinstance(feature, dict):
        return any(map(is_decoded, feature.values()))
    if isinstance(feature, list | tuple):
        return any(map(is_decoded, feature))
    if hasattr(feature, "feature"):
        return is_decoded(feature.feature)
    return hasattr(feature, "decode_example") and not isinstance(feature, datasets.Json)


@contextmanager
def refused_data_set(name: str) -> Iterator[None]:
    """Whatever the library raises is a DataError that names the data set."""
    try:
        yield
    except NeuralChatError:
        raise
    except Exception as error:  # a stranger's metadata may make it raise anything
        raise DataError(f"data set '{name}' cannot be loaded: {line_of_error(error)}") from error


def line_of_error(error: Exception) -> str:
    # Of an error that the library wraps, the inner one says what is wrong.
    inner = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    return readable((str(inner).strip() or type(inner).__name__).splitlines()[0], 300)
