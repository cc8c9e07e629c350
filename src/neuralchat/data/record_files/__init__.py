"""bytes on disk -> raw rows, streamed: JSON, JSON lines, CSV, parquet or Arrow, packed with gzip or zstd or not."""

from neuralchat.data.record_files.json_columns import TURN_KEYS
from neuralchat.data.record_files.json_lines import LineStretch, RowsOrStretches
from neuralchat.data.record_files.reading import READERS, read_rows, read_stretches
from neuralchat.data.record_files.rows import MAX_ROW_BYTES, Blank, RawRow, SyntaxProblem, readable

__all__ = [
    "MAX_ROW_BYTES",
    "READERS",
    "TURN_KEYS",
    "Blank",
    "LineStretch",
    "RawRow",
    "RowsOrStretches",
    "SyntaxProblem",
    "read_rows",
    "read_stretches",
    "readable",
]
