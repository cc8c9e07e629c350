"""data/record_files: what the streaming readers give equals what json, csv and pyarrow read at once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support.fuzzing import only_problem, rows_of, values_of

from neuralchat.data.record_files import RawRow, SyntaxProblem, packed, read_rows
from neuralchat.data.record_files import rows as row_limits
from neuralchat.errors import DataError

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=4)
# 4 bytes are the least that can hold a byte order mark and one character more.
BLOCKS = st.integers(4, 40)
ENDINGS = st.sampled_from(["a.json", "a.jsonl"])


def holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


@given(objects=st.lists(OBJECTS, max_size=8), block=BLOCKS, escape=st.booleans(), indent=st.sampled_from([None, 2]))
def test_json_array_over_any_block_boundary(
    objects: list[dict[str, Any]], block: int, escape: bool, indent: int | None
) -> None:
    text = json.dumps(objects, ensure_ascii=escape, indent=indent)
    assert values_of(rows_of(text, block=block)) == json.loads(text)


@given(objects=st.lists(OBJECTS, min_size=1, max_size=8), block=BLOCKS, mark=st.booleans(), last=st.booleans())
# The first block ends with the first line.
@example(objects=[{"": [{}]}, {}], block=11, mark=False, last=False)
def test_json_lines_over_any_block_boundary(objects: list[dict[str, Any]], block: int, mark: bool, last: bool) -> None:
    lines = "\n".join(json.dumps(value) for value in objects) + ("\n" if last else "")
    content = lines.encode("utf-8-sig" if mark else "utf-8")
    # A single object may hold the records.
    assume(len(objects) > 1 or not any(holds_objects(value) for value in objects[0].values()))
    assert values_of(rows_of(content, block=block)) == objects
    assert values_of(rows_of(content, "a.jsonl")) == objects


@given(numbers=st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=8), block=BLOCKS)
def test_bare_numbers_are_not_cut_at_a_block_boundary(numbers: list[float], block: int) -> None:
    text = json.dumps(numbers)
    assert values_of(rows_of(text, block=block)) == json.loads(text)


@given(objects=st.lists(OBJECTS, min_size=1, max_size=4), block=BLOCKS, data=st.data())
def test_cut_array_is_a_fatal_problem_after_its_whole_rows(
    objects: list[dict[str, Any]], block: int, data: st.DataObject
) -> None:
    text = json.dumps(objects)
    rows = rows_of(text[: data.draw(st.integers(1, len(text) - 1))], block=block)
    problem = only_problem(rows)
    assert rows[-1] is problem
    assert problem.fatal
    assert [row.value for row in rows[:-1] if isinstance(row, RawRow)] == objects[: len(rows) - 1]


def test_array_with_byte_order_mark_and_white_space() -> None:
    assert values_of(rows_of('\ufeff \n[ {"a": 1} ,\t{"b": "é"} ]\n \n')) == [{"a": 1}, {"b": "é"}]


def test_repeated_field_is_noticed_once_for_its_row_only() -> None:
    content = '[{"a": 1, "a": 2}, {"a": 3}]'
    told = [("field 'a' is given more than once",), ()]
    for rows in (rows_of(content), rows_of(content, block=4), rows_of('{"a": 1, "a": 2}\n{"a": 3}')):
        assert [row.problems for row in rows if isinstance(row, RawRow)] == told


def test_empty_file() -> None:
    assert rows_of("") == [SyntaxProblem(None, "the file is empty", True)]
    assert rows_of(" \n") == [SyntaxProblem(None, "the file is empty", True)]
    assert rows_of("[]") == []
    assert rows_of("\n", "a.jsonl") == []


# Places counted by hand.
BROKEN_ARRAYS = [
    ('[{"é": 1} {"b": 2}]', None, "is not JSON at line 1, column 11: expected ',' or ']' after row 1"),
    ('[{"é": 1},\n {"b" 2}]', 2, "is not JSON at line 2, column 7: Expecting ':' delimiter"),
    ('[{"a": 1}]\n\n  x', None, "is not JSON at line 3, column 3: text after the closing ']'"),
    ('[{"a":\n"b', 1, "is not JSON at line 2, column 1: Unterminated string starting at"),
]


@pytest.mark.parametrize("block", [4, 8, None])
@pytest.mark.parametrize(("content", "row", "what"), BROKEN_ARRAYS)
def test_broken_array_names_row_line_and_column(content: str, row: int | None, what: str, block: int | None) -> None:
    assert only_problem(rows_of(content, block=block)) == SyntaxProblem(row, what, True)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_the_byte_order_mark_is_no_column(name: str) -> None:
    content = '[{"a" 1}]' if name == "a.json" else '{"a" 1}'
    at = 1 + content.index("1")
    what = only_problem(rows_of(content.encode("utf-8-sig"), name)).what
    assert what.startswith(f"is not JSON at line 1, column {at}:")


def test_broken_line_does_not_stop_the_reader() -> None:
    rows = rows_of('{"é": 1}\n{"b" 2}\n\n{"c": 3}\n')
    assert rows == [
        RawRow(1, {"é": 1}),
        SyntaxProblem(2, "is not JSON at line 2, column 6: Expecting ':' delimiter", False),
        RawRow(3, {"c": 3}),
    ]


def test_json_nested_too_deeply() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert only_problem(rows_of(f"[{deep}]")) == SyntaxProblem(1, "is nested too deeply", True)
    assert rows_of(f'{deep}\n{{"a": 1}}', "a.jsonl") == [
        SyntaxProblem(1, "is nested too deeply", False),
        RawRow(2, {"a": 1}),
    ]


def test_row_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_limits, "MAX_ROW_BYTES", 1 << 20)
    content = json.dumps([{"a": "x" * (3 << 20)}])
    assert only_problem(rows_of(content, block=1 << 16)) == SyntaxProblem(1, "is larger than 1 MiB", True)


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


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_file_that_is_not_utf8(name: str) -> None:
    content = {"a.json": b'[{"a": "\xe9"}]', "a.jsonl": b'{"a": "\xe9"}\n', "a.csv": b"a\n\xe9\n"}[name]
    expected = SyntaxProblem(None, "is not UTF-8: byte 0xe9 cannot be decoded; save the file as UTF-8", True)
    assert rows_of(content, name) == [expected]


def test_missing_file(tmp_path: Path) -> None:
    assert list(read_rows(tmp_path / "a.json")) == [
        SyntaxProblem(None, "cannot be read: No such file or directory", True)
    ]


@pytest.mark.parametrize(("name", "found"), [("a.txt", ".txt"), ("records", "records")])
def test_unknown_ending(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(
        DataError,
        match=rf"records may be \.json, \.jsonl, .*\.parquet, \.arrow, \.feather files, packed .*, found '{found}'",
    ):
        list(read_rows(tmp_path / name))


def test_parquet_equals_what_was_written(tmp_path: Path) -> None:
    values = [{"messages": [{"role": "user", "content": f"é{i}"}], "n": i} for i in range(3000)]
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "a.parquet")
    assert values_of(list(read_rows(tmp_path / "a.parquet"))) == values


def test_broken_parquet() -> None:
    problem = only_problem(rows_of("not parquet at all", "a.parquet"))
    assert (problem.row, problem.fatal) == (None, True)
    assert problem.what.startswith("is not parquet after row 0: ")


def write_stream(table: Any, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_file(table: Any, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


ARROW = {"stream.arrow": write_stream, "file.arrow": write_file, "packed.feather": pyarrow.feather.write_feather}


@pytest.mark.parametrize("name", ARROW)
def test_arrow(tmp_path: Path, name: str) -> None:
    turns = [{"role": "user", "content": "é"}, {"role": "assistant", "content": None}]
    values = [{"id": i, "messages": turns[: i % 3], "text": None if i % 2 else "x" * i} for i in range(200)]
    ARROW[name](pa.Table.from_pylist(values), tmp_path / name)
    assert values_of(list(read_rows(tmp_path / name))) == values


@pytest.mark.parametrize("name", ARROW)
def test_arrow_that_is_damaged(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    ARROW[name](pa.table({"text": ["a", "b"]}), path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"not arrow at all"):
        path.write_bytes(damaged)
        problem = only_problem(list(read_rows(path)))
        assert problem.what.startswith("is not an Arrow file after row 0: ")
        assert problem.fatal


def test_values_of_arrow_that_lie_outside_are_not_followed(tmp_path: Path) -> None:
    """Offsets of texts are believed by the library unless it is asked to check them."""
    path = tmp_path / "a.arrow"
    write_stream(pa.table({"text": ["a" * 77]}), path)
    content, offset = path.read_bytes(), np.array([0, 77], dtype=np.int32).tobytes()
    before, _, after = content.rpartition(offset)
    path.write_bytes(before + np.array([0, 1 << 30], dtype=np.int32).tobytes() + after)
    problem = only_problem(list(read_rows(path)))
    assert problem.what.startswith("is not an Arrow file after row 0: ")
