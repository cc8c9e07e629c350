"""data/record_files: what the streaming readers give equals what json, csv and pyarrow read at once."""

from __future__ import annotations

import csv
import gzip
import json
import string
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neuralchat.data.record_files import RawRow, SyntaxProblem, json_text, packed, read_rows
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


def rows_of(content: str | bytes, name: str = "a.json", block: int | None = None) -> list[RawRow | SyntaxProblem]:
    raw = content.encode() if isinstance(content, str) else content
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        if block:
            patch.setattr(json_text, "READ_BYTES", block)
        path = Path(directory) / name
        path.write_bytes(raw)
        return list(read_rows(path))


def values_of(rows: list[RawRow | SyntaxProblem]) -> list[Any]:
    assert [row.number for row in rows if isinstance(row, RawRow)] == list(range(1, len(rows) + 1)), rows
    return [row.value for row in rows if isinstance(row, RawRow)]


def holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def only_problem(rows: list[RawRow | SyntaxProblem]) -> SyntaxProblem:
    problems = [row for row in rows if isinstance(row, SyntaxProblem)]
    assert len(problems) == 1, rows
    return problems[0]


@given(objects=st.lists(OBJECTS, max_size=8), block=BLOCKS, escape=st.booleans(), indent=st.sampled_from([None, 2]))
def test_json_array_over_any_block_boundary(
    objects: list[dict[str, Any]], block: int, escape: bool, indent: int | None
) -> None:
    text = json.dumps(objects, ensure_ascii=escape, indent=indent)
    assert values_of(rows_of(text, block=block)) == json.loads(text)


@given(objects=st.lists(OBJECTS, min_size=1, max_size=8), block=BLOCKS, mark=st.booleans(), last=st.booleans())
def test_json_lines_over_any_block_boundary(objects: list[dict[str, Any]], block: int, mark: bool, last: bool) -> None:
    lines = "\n".join(json.dumps(value) for value in objects) + ("\n" if last else "")
    content = lines.encode("utf-8-sig" if mark else "utf-8")
    # A single object may hold the records, see below.
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


ROWS = [{"instruction": f"é{i}", "output": "b" * i} for i in range(5)]
RECORDS = st.lists(st.fixed_dictionaries({"instruction": TEXTS, "output": TEXTS}), min_size=1, max_size=6)
# No field of a record, and no list of objects.
BESIDE = st.dictionaries(
    TEXTS.map("x".__add__), st.none() | st.integers() | TEXTS | st.lists(TEXTS, max_size=2), max_size=3
)


@given(rows=RECORDS, before=BESIDE, after=BESIDE, block=BLOCKS, indent=st.sampled_from([None, 0, 2]), name=ENDINGS)
def test_object_that_holds_the_records_under_one_key(
    rows: list[dict[str, str]], before: dict[str, Any], after: dict[str, Any], block: int, indent: int | None, name: str
) -> None:
    text = json.dumps({**before, "data": rows, **{k: v for k, v in after.items() if k not in before}}, indent=indent)
    assert values_of(rows_of(text, name, block=block)) == rows


@given(rows=RECORDS, block=BLOCKS, name=ENDINGS)
def test_objects_spread_over_lines(rows: list[dict[str, str]], block: int, name: str) -> None:
    """As `jq .` writes them; a single one is one record."""
    text = "\n".join(json.dumps(row, indent=2) for row in rows)
    assert values_of(rows_of(text, name, block=block)) == rows


def test_array_over_several_lines_in_a_file_of_lines() -> None:
    assert values_of(rows_of(json.dumps(ROWS, indent=1), "a.jsonl")) == ROWS


@pytest.mark.parametrize("indent", [None, 2])
def test_a_conversation_alone_is_a_record(indent: int | None) -> None:
    row = {"id": 7, "messages": [{"role": "user", "content": "Hi"}], "tags": [{"a": 1}]}
    assert values_of(rows_of(json.dumps(row, indent=indent))) == [row]
    assert values_of(rows_of(json.dumps({"tags": [{"a": 1}]}) + "\n" + json.dumps(ROWS[0]))) == [
        {"tags": [{"a": 1}]},
        ROWS[0],
    ]


BROKEN_OBJECTS = [
    (
        {"train": ROWS[:1], "test": ROWS[:2]},
        None,
        "holds lists of objects under several keys: train, test; keep one, or give each a file",
    ),
    (
        {"data": ROWS[:1], "system": "Be kind."},
        None,
        "holds records under 'data', and fields of a record beside them: system; put the records alone into the file",
    ),
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(("content", "row", "what"), BROKEN_OBJECTS)
def test_object_that_does_not_say_what_the_records_are(
    content: dict[str, Any], row: int | None, what: str, indent: int | None
) -> None:
    assert only_problem(rows_of(json.dumps(content, indent=indent))) == SyntaxProblem(row, what, True)


BROKEN_TEXTS = [
    ('{"version": 1,\n"data": [{"a": 1},\n{"a" 2}]}', 2, "is not JSON at line 3, column 6: Expecting ':' delimiter"),
    ('{\n"data": [{"a": 1}]\n} x', None, "is not JSON at line 3, column 3: text after the closing '}'"),
    ('{\n"version" 1}', 1, "is not JSON at line 2, column 11: expected ':'"),
    ('{\n"version": 1\n"data": []}', 1, "is not JSON at line 3, column 1: expected ',' or '}'"),
    ('{\n"data": [{"a": 1}],', None, "is not JSON at line 2, column 20: Expecting value"),
    ('{\n"a": 1}\n{"a": }', 2, "is not JSON at line 3, column 7: Expecting value"),
]


@pytest.mark.parametrize("block", [4, 9, None])
@pytest.mark.parametrize(("content", "row", "what"), BROKEN_TEXTS)
def test_broken_object(content: str, row: int | None, what: str, block: int | None) -> None:
    assert only_problem(rows_of(content, block=block)) == SyntaxProblem(row, what, True)


def test_rows_of_a_line_and_of_an_object_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_limits, "MAX_ROW_BYTES", 1 << 20)
    large, problem = {"instruction": "x" * (2 << 20)}, "is larger than 1 MiB"
    assert rows_of(json.dumps(large) + "\n" + json.dumps(ROWS[0])) == [
        SyntaxProblem(1, problem, False),
        RawRow(2, ROWS[0]),
    ]
    many = [{"instruction": "x" * 1000}] * 3000
    assert values_of(rows_of(json.dumps({"version": 1, "data": many}))) == many
    assert rows_of(json.dumps({"data": [ROWS[0], large]})) == [RawRow(1, ROWS[0]), SyntaxProblem(2, problem, True)]


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
        DataError, match=rf"records may be \.json, \.jsonl, .*\.parquet files, packed .*, found '{found}'"
    ):
        list(read_rows(tmp_path / name))


# csv reads a bare carriage return as a line end, and NUL is refused by it.
CELLS = st.text(st.sampled_from(string.ascii_letters + ' ,"\né🙂'), max_size=8)


@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=5), mark=st.booleans())
def test_csv_equals_what_was_written(rows: list[tuple[str, str]], mark: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.csv"
        with path.open("w", newline="", encoding="utf-8-sig" if mark else "utf-8") as stream:
            writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
            writer.writerows([("instruction", "output"), *rows])
        found = list(read_rows(path))
    assert values_of(found) == [{"instruction": a, "output": b} for a, b in rows]


TABLE_CELLS = st.text(st.sampled_from(string.ascii_letters + ' ,;|\t"\né🙂'), max_size=8)


@given(rows=st.lists(st.tuples(TABLE_CELLS, TABLE_CELLS, TABLE_CELLS), max_size=5), separator=st.sampled_from(",;\t|"))
def test_separator_is_found_out(rows: list[tuple[str, str, str]], separator: str) -> None:
    """What stands in quotes does not mislead."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.csv"
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.writer(stream, delimiter=separator)
            writer.writerows([("question", "answer", "id"), *rows])
        found = list(read_rows(path))
    assert values_of(found) == [{"question": a, "answer": b, "id": c} for a, b, c in rows]


SEPARATED = [
    ("question;answer\nOne, two, three?;a, b\nFour, five?;c\n", {"question": "One, two, three?", "answer": "a, b"}),
    ("instruction,output\na;b;c,d;e\n", {"instruction": "a;b;c", "output": "d;e"}),
    ('"a, b";"c, d"\n"1, 2";"3, 4"\n', {"a, b": "1, 2", "c, d": "3, 4"}),
    ("text\na; b\n", {"text": "a; b"}),
    ("sep=;\nquestion;answer\na,b;c\n", {"question": "a,b", "answer": "c"}),
    ("question|answer\n\na,b|c;d\n", {"question": "a,b", "answer": "c;d"}),
]


@pytest.mark.parametrize(("content", "row"), SEPARATED)
def test_separator_of_a_table(content: str, row: dict[str, str]) -> None:
    for text in (content, "\ufeff" + content, content.replace("\n", "\r\n")):
        first = rows_of(text, "a.csv")[0]
        assert isinstance(first, RawRow)
        assert first.value == row


def test_tab_separated_file_is_not_searched_for_others() -> None:
    assert rows_of("a;b\tc\n1;2\t3\n", "a.tsv") == [RawRow(1, {"a;b": "1;2", "c": "3"})]


def test_csv_row_with_too_many_cells() -> None:
    assert rows_of("a,b\n1,2,3,4\n5,6\n", "a.csv") == [
        RawRow(1, {"a": "1", "b": "2"}, ("has 2 more cell(s) than the header",)),
        RawRow(2, {"a": "5", "b": "6"}),
    ]


def test_broken_csv() -> None:
    problem = only_problem(rows_of('a\nok\n"b" c\n', "a.csv"))
    assert (problem.row, problem.fatal) == (2, True)
    assert problem.what.startswith("is not CSV (line 3): ")


@pytest.mark.parametrize("text", ["a\n{cell}\nlast\n", 'a\n{cell}\n"b" c\n'])
def test_the_limit_of_other_csv_readers_stays(text: str, tmp_path: Path) -> None:
    """A cell beyond the csv module's own limit is read; the limit is everybody's and is as it was at every row."""
    path = tmp_path / "a.csv"
    path.write_text(text.format(cell="x" * 200_000))
    before = csv.field_size_limit()
    assert before < 200_000
    rows = read_rows(path)
    first = next(rows)
    assert isinstance(first, RawRow)
    assert first.value == {"a": "x" * 200_000}
    assert csv.field_size_limit() == before
    assert len(list(rows)) == 1
    assert csv.field_size_limit() == before


def test_parquet_equals_what_was_written(tmp_path: Path) -> None:
    values = [{"messages": [{"role": "user", "content": f"é{i}"}], "n": i} for i in range(3000)]
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "a.parquet")
    assert values_of(list(read_rows(tmp_path / "a.parquet"))) == values


def test_broken_parquet() -> None:
    problem = only_problem(rows_of("not parquet at all", "a.parquet"))
    assert (problem.row, problem.fatal) == (None, True)
    assert problem.what.startswith("is not parquet after row 0: ")
