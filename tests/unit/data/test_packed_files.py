"""data/record_files/packed.py: gzip and zstd give the rows of what they hold, or say what is wrong."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pytest
from support.fuzzing import only_problem, rows_of, values_of

from neuralchat.data.record_files import SyntaxProblem, packed

ROWS = [{"instruction": f"é{i}", "output": "b" * i} for i in range(5)]
PACKERS = {"gz": gzip.compress, "zst": lambda raw: bytes(pa.compress(raw, "zstd", asbytes=True))}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.json.{}", "a.jsonl.{}", "a.tsv.{}"])
@pytest.mark.parametrize("kind", PACKERS)
def test_packed_file(name: str, kind: str) -> None:
    """Known by its first bytes, whatever it is called."""
    rows = ROWS * 1000
    if ".json" in name:
        text = json.dumps(rows) if "jsonl" not in name else "\n".join(map(json.dumps, rows))
    else:
        separator = "\t" if "tsv" in name else ","
        text = "\n".join(
            separator.join(cells) for cells in (["instruction", "output"], *(row.values() for row in rows))
        )
    assert values_of(rows_of(PACKERS[kind](text.encode()), name.format(kind))) == rows


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_file_that_is_damaged(kind: str) -> None:
    raw = PACKERS[kind]("\n".join(json.dumps({"n": i, "x": hash(str(i))}) for i in range(20_000)).encode())
    # Without a checksum, as zstd may be, other damage is found by what it does to the text.
    flipped = [raw[:100] + b"\0" * 50 + raw[150:]] if kind == "gz" else []
    for damaged in (raw[: len(raw) // 2], raw[:6], *flipped):
        rows = rows_of(damaged, f"a.jsonl.{kind}")
        problem = only_problem(rows)
        assert rows[-1] is problem
        assert problem.fatal
        assert "cannot be unpacked, it is damaged or not" in problem.what
    assert "not" in only_problem(rows_of(b"{}", f"a.json.{kind}")).what


def test_what_a_packed_file_must_not_hold() -> None:
    packed_twice = gzip.compress(gzip.compress(b"{}"))
    assert only_problem(rows_of(packed_twice, "a.json.gz")).what == "is packed with gzip twice; unpack it once"
    parquet = only_problem(rows_of(gzip.compress(b"PAR1"), "a.parquet.gz"))
    assert parquet.what == "is packed with gzip; unpack it, parquet files are packed inside"


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_file_that_unpacks_without_end(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "ALWAYS_UNPACKED_BYTES", 1 << 20)
    lines = b'{"a": 1}\n' * 1_000_000
    problem = only_problem(rows_of(PACKERS[kind](lines), f"a.jsonl.{kind}"))
    assert problem == SyntaxProblem(None, "unpacks to more than 200 times its size; unpack it and look at it", True)
