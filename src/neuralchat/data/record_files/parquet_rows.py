"""A parquet file -> raw rows, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuralchat.data.record_files import rows
from neuralchat.data.record_files.rows import RawRow, Rows, SyntaxProblem, header_problem, readable, too_large

# Few, since compression can hide the size of rows until they are read.
BATCH_ROWS = 64


def read_parquet(path: Path) -> Rows:
    import pyarrow.parquet

    number = 0
    with path.open("rb") as stream:
        try:
            file = pyarrow.parquet.ParquetFile(stream)
            if problem := header_problem(file.schema_arrow.names):
                yield SyntaxProblem(None, problem, True)
                return
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in rows_of_batch(batch):
                    number += 1
                    yield RawRow(number, row) if isinstance(row, dict) else SyntaxProblem(number, row, False)
        except UnicodeDecodeError:
            raise
        except Exception as error:  # a damaged file may make the library raise anything
            what = readable((str(error).strip() or type(error).__name__).splitlines()[0], 200)
            yield SyntaxProblem(None, f"is not parquet after row {number}: {what}", True)


def rows_of_batch(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of an arrow batch, or what is wrong with one."""
    if batch.nbytes <= rows.MAX_ROW_BYTES:
        yield from batch.to_pylist()
        return
    for row in (batch.slice(i, 1) for i in range(len(batch))):
        yield from row.to_pylist() if row.nbytes <= rows.MAX_ROW_BYTES else [too_large()]
