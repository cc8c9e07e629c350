"""bytes on disk -> raw rows, streamed: JSON, JSON lines, CSV, parquet or Arrow, packed with gzip or zstd or not."""

from neuralchat.data.record_files.json_columns import TURN_KEYS
from neuralchat.data.record_files.reading import READERS, read_rows
from neuralchat.data.record_files.rows import MAX_ROW_BYTES, Blank, RawRow, SyntaxProblem, readable

__all__ = ["MAX_ROW_BYTES", "READERS", "TURN_KEYS", "Blank", "RawRow", "SyntaxProblem", "read_rows", "readable"]
