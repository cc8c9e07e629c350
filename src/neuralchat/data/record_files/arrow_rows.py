"""A file of Apache Arrow's, parquet or Arrow itself -> raw rows, a batch at a time."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuralchat.data.record_files import rows
from neuralchat.data.record_files.rows import RawRow, Rows, SyntaxProblem, header_problem, readable, too_large
from neuralchat.data.templates.limits import memory_bytes
from neuralchat.files import open_regular

# Few, since compression can hide the size of rows until they are read.
BATCH_ROWS = 64
# What a file of Arrow's begins with; a stream has no such mark.
ARROW_FILE = b"ARROW1"
# What a batch may take while it is unpacked, beside as much as the file has: a few bytes can stand for gigabytes.
UNPACKING_BYTES = 4 << 30


def read_parquet(path: Path) -> Rows:
    import pyarrow.parquet

    def opened(stream: Any) -> tuple[Any, Iterator[Any]]:
        file = pyarrow.parquet.ParquetFile(stream)
        return file.schema_arrow, file.iter_batches(batch_size=BATCH_ROWS)

    return rows_of_batches(path, "parquet", opened)


def read_arrow(path: Path) -> Rows:
    """Arrow's file format, which feather files have too, or its stream format, which `datasets` keeps."""
    import pyarrow.ipc

    def opened(stream: Any) -> tuple[Any, Iterator[Any]]:
        is_file = stream.read(len(ARROW_FILE)) == ARROW_FILE
        stream.seek(0)
        reader = pyarrow.ipc.open_file(stream) if is_file else pyarrow.ipc.open_stream(stream)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
        return reader.schema, (part for batch in batches for part in checked_parts(batch))

    return rows_of_batches(path, "an Arrow file", opened)


def checked_parts(batch: Any) -> Iterator[Any]:
    """A batch in parts of a few rows. Arrow's files say where values lie: what points elsewhere is not followed."""
    batch.validate(full=True)
    return (batch.slice(first, BATCH_ROWS) for first in range(0, len(batch), BATCH_ROWS))


def rows_of_batches(path: Path, what: str, opened: Callable[[Any], tuple[Any, Iterator[Any]]]) -> Rows:
    """`opened`: a stream -> (schema, batches)."""
    number = 0
    with open(open_regular(path), "rb") as stream:
        try:
            most_bytes = UNPACKING_BYTES + path.stat().st_size
            schema, batches = opened(stream)
            if problem := header_problem(schema.names):
                yield SyntaxProblem(None, problem, True)
                return
            for batch in unpacked_within(most_bytes, batches):
                for row in rows_of_batch(batch):
                    number += 1
                    yield RawRow(number, row) if isinstance(row, dict) else SyntaxProblem(number, row, False)
        except UnicodeDecodeError:
            raise
        except MemoryError:
            what = (
                f"needs more than {most_bytes >> 20} MiB of memory after row {number}; write it with smaller row groups"
            )
            yield SyntaxProblem(None, what, True)
        except Exception as error:  # a damaged file may make the library raise anything
            why = readable((str(error).strip() or type(error).__name__).splitlines()[0], 200)
            yield SyntaxProblem(None, f"is not {what} after row {number}: {why}", True)


def rows_of_batch(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of an arrow batch, or what is wrong with one."""
    if batch.nbytes <= rows.MAX_ROW_BYTES:
        yield from batch.to_pylist()
        return
    for row in (batch.slice(i, 1) for i in range(len(batch))):
        yield from row.to_pylist() if row.nbytes <= rows.MAX_ROW_BYTES else [too_large()]


def unpacked_within(most_bytes: int, batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; MemoryError where one needs more than `most_bytes` to be unpacked."""
    while True:
        with mapped_at_most(most_bytes):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


@contextmanager
def mapped_at_most(most_bytes: int) -> Iterator[None]:
    """Within, this process is given no more than so many bytes beside what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if not (mapped := memory_bytes(0)):
        # A system that does not say how much that is.
        yield
        return
    limits = [limit for limit in (mapped + most_bytes, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
