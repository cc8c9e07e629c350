"""What fuzzing and thought found in record files, kept as cases: each was a traceback, a hang, or the wrong message."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fuzzing import measured, time_limit

from neuralchat.data import record_files, tokenization
from neuralchat.data.record_files import RawRow, SyntaxProblem, read_rows
from neuralchat.data.records import RecordReport, Turn, conversations, read_records, records_of_rows
from neuralchat.data.records import report as report_limits
from neuralchat.data.templates.alpaca import AlpacaTemplate
from neuralchat.data.tokenization import Encoder, tokenize
from neuralchat.data.tokens.counts import TokenizationCounts
from neuralchat.errors import DataError

GOOD = {"instruction": "Name a fruit.", "output": "An apple."}
LINE = json.dumps(GOOD).encode() + b"\n"
ROW = "is larger than 8 MiB"
HUGE = "holds a number of too many digits; write it as text"
CORPUS: list[tuple[str, bytes, str]] = [
    ("a.json", b"[" + LINE + b", {'a': 1}]", "row 2: is not JSON at line 2, column 4"),
    # A megabyte of space before the first bracket was taken for an array without one.
    ("a.json", b" " * (1 << 20) + b"\n" + LINE + b"x", "row 2: is not JSON"),
    ("a.json", b'[{"a": ' + b"9" * 5000 + b"}]", f"row 1: {HUGE}"),
    ("a.jsonl", LINE + b'{"a": ' + b"9" * 5000 + b"}\n", f"row 2: {HUGE}"),
    ("a.jsonl", LINE + b"[" * 100_000 + b"\n", "row 2: is nested too deeply"),
    ("a.jsonl", LINE + b'{"a":' * 900 + b"1" + b"}" * 900, "row 2: fields not recognised: found a"),
    ("a.jsonl", LINE + b"[" * 900 + b"]" * 900, "row 2: expected an object with fields, found list [[[['...']]]]"),
    ("a.jsonl", LINE + b'"' + b"x" * (9 << 20) + b'"\n' + LINE, f"row 2: {ROW}"),
    ("a.json", b"[" + LINE + b',"' + b"\xc3\xa9" * (20 << 20) + b'"]', f"row 2: {ROW}"),
    ("a.json", json.dumps([GOOD]).encode("utf-16"), "is UTF-16 text; save the file as UTF-8"),
    ("a.jsonl", json.dumps(GOOD).encode("utf-32"), "is UTF-32 text; save the file as UTF-8"),
    ("a.json", json.dumps([GOOD]).encode("utf-16-le"), "looks like UTF-16 text; save the file as UTF-8"),
    ("a.csv", codecs.BOM_UTF16_BE + "a,b".encode("utf-16-be"), "is UTF-16 text"),
    ("a.json", b"\x1f\x8b\x08\x00", "cannot be unpacked, it is damaged or not gzip: Compressed file ended before"),
    ("a.jsonl", b"PK\x03\x04", "is a zip archive; unpack it first"),
    ("a.json", b"PAR1", "is a parquet file; give it the ending .parquet"),
    ("a.csv", b"output,output\nx,y\n", "column 'output' is given more than once in the header"),
    ("a.csv", b"a," * 5000 + b"\n1\n", "the header has 5001 columns; at most 1000 are allowed"),
    ("a.csv", b"instruction,output\n" + b"," * (9 << 20), f"row 1: is not CSV (line 1): the row {ROW}"),
    ("a.csv", b'instruction,output\na,"' + b"x\n" * (5 << 20), f"the row {ROW}; often a quote is not closed"),
    ("a.csv", b"instruction,output\na,b\n\x1b[31m,\n", "row 2: field 'output' is empty"),
    ("a.jsonl", b'{"\\u001b[31m": 1}', "found \\x1b[31m; allowed are"),
    ("a.jsonl", b'{"\\ud800": 1}', "found \\ud800; allowed are"),
    ("a.jsonl", b'{"instruction": "a", "output": "\\ud83d"}', "field 'output' holds half of a surrogate pair"),
    # The text of a fact goes into the file that `eval --output` writes.
    ("a.jsonl", b'{"instruction": "a", "output": "b", "facts": ["\\ud83d"]}', "field 'facts' holds half of a"),
    ("a.parquet", b"PAR1" + bytes(40) + b"PAR1", "is not parquet after row 0: "),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "expected"), CORPUS, ids=[case[2][:40] for case in CORPUS])
def test_message(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    report = RecordReport()
    with time_limit():
        list(read_records([tmp_path / name], report))
    assert len(report.problems) == 1, report.problems
    assert report.problems[0].startswith(str(tmp_path / name))
    assert expected in report.problems[0]
    assert len(report.problems[0]) < 400 + len(str(tmp_path))


def test_rows_after_a_row_that_is_too_large_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE + b"x" * (20 << 20) + b"\n" + LINE)
    assert list(read_rows(path)) == [RawRow(1, GOOD), SyntaxProblem(2, ROW, False), RawRow(3, GOOD)]


def test_unnamed_columns_of_a_spreadsheet_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"instruction,output,,\na,b,,\n")
    report = RecordReport()
    assert [record.turns for record in read_records([path], report)] == [(Turn("user", "a"), Turn("assistant", "b"))]


def write_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_with_a_column_given_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["instruction", "output", "output"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet")) == [
        SyntaxProblem(None, "column 'output' is given more than once in the header", True)
    ]


def test_parquet_row_that_is_too_large(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", instruction=["a", "b", "c"], output=["x", "y" * (9 << 20), "z"])
    assert list(read_rows(path)) == [
        RawRow(1, {"instruction": "a", "output": "x"}),
        SyntaxProblem(2, ROW, False),
        RawRow(3, {"instruction": "c", "output": "z"}),
    ]


def test_parquet_of_other_types(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", instruction=[b"\xff"], output=[{"a": [1]}])
    report = RecordReport()
    assert list(read_records([path], report)) == []
    assert [problem.split(": ", 1)[1] for problem in report.problems] == [
        "field 'instruction' must be text, found bytes b'\\xff'", "field 'output' must be text, found dict {'a': [1]}",
    ]  # fmt: skip


def test_object_with_a_million_fields_takes_no_quadratic_time(tmp_path: Path) -> None:
    fields = ", ".join(f'"k{i}": 0' for i in range(200_000))
    (tmp_path / "a.jsonl").write_text(f'{{{fields}, "k0": 1, "k1": 1}}')
    with time_limit(5):
        rows = list(read_rows(tmp_path / "a.jsonl"))
    assert isinstance(rows[0], RawRow)
    assert rows[0].problems == ("field 'k0' is given more than once", "field 'k1' is given more than once")


def test_conversation_of_a_million_bad_turns_has_few_problems() -> None:
    report = RecordReport()
    rows = iter([RawRow(1, {"messages": [7] * 1_000_000})])
    assert list(records_of_rows("f", rows, report)) == []
    assert len(report.problems) == conversations.PROBLEMS_OF_A_ROW + 1
    assert report.problems[-1] == "f row 1: messages has 1000000 turns; those from [5] on were not looked at"
    roles = [{"role": "user", "content": "x"}] * 100_000
    list(records_of_rows("f", iter([RawRow(2, {"messages": roles})]), report))
    assert report.problems[-1].endswith("found user, user, user, user, user, user, user, user, ...")


def test_problems_of_many_rows_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"instruction,output\n" + b"a,\n" * 300_000)
    report = RecordReport()
    list(read_records([path], report))
    assert report.problems == [f"{path} rows 1-300000 (300000 rows): field 'output' is empty"]
    path.write_bytes(b"[" + b",".join(b'{"k%s": 1}' % bytes([97 + i % 26] * (1 + i // 26)) for i in range(5000)) + b"]")
    path = path.rename(path.with_suffix(".json"))
    report = RecordReport()
    list(read_records([path], report))
    # What differs in the names that were found is one problem; what differs in its kind is kept up to a number.
    assert len(report.problems) == 1
    for number in range(300):
        report.add("f", number, "x" * number)
    assert (len(report.problems), report.unlisted) == (100, 201)
    with pytest.raises(DataError, match=r"^5300 problem\(s\) in the records:(.|\n)*and 281 more"):
        report.settle("fail")


def test_ignored_fields_are_bounded() -> None:
    report = RecordReport()
    rows = (RawRow(i, {**GOOD, f"{i} \n" + "x" * 1000: 1}) for i in range(1000))
    assert len(list(records_of_rows("f", rows, report))) == 1000
    assert len(report.ignored_fields) == report_limits.KEPT_FIELDS
    assert max(map(len, report.ignored_fields)) < 60


def encoder_of(tokenizer: Any, limit: int) -> Encoder:
    return Encoder(tokenizer, AlpacaTemplate([], "<|end|>"), max_seq_length=limit, train_on_inputs=False)


def test_unusable_records_are_bounded(tokenizer: Any) -> None:
    counts = TokenizationCounts()
    rows = (RawRow(i, {"instruction": "a", "output": "word " * 9}) for i in range(150))
    report = RecordReport()
    assert list(tokenize(records_of_rows("f", rows, report), encoder_of(tokenizer, 8), counts, report)) == []
    assert (len(counts.unusable), counts.unlisted, counts.as_dict()["unlisted"]) == (100, 50, 50)
    assert counts.notices("")[0].startswith("150 record(s) cannot be trained on")
    assert counts.notices("")[0].endswith("; and 145 more")


def test_batches_follow_the_text(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Watched(Encoder):
        def encode(self, records: Any, counts: TokenizationCounts, report: RecordReport) -> list[Any]:
            sizes.append(len(records))
            return super().encode(records, counts, report)

    monkeypatch.setattr(tokenization, "BATCH_CHARACTERS", 100)
    rows: Iterator[RawRow] = (RawRow(i, {"instruction": "a" * 60, "output": "b"}) for i in range(5))
    encoder = Watched(tokenizer, AlpacaTemplate([], "<|end|>"), max_seq_length=999, train_on_inputs=False)
    found = list(tokenize(records_of_rows("f", rows, RecordReport()), encoder, TokenizationCounts(), RecordReport()))
    assert (len(found), sizes) == (5, [2, 2, 1])


@pytest.mark.parametrize("text", ["<|end|>", "<|start|>user\n", "a\0b", "\x1b[31m", "\u202e", "\ufeff", "\r", "\x85"])
def test_special_and_control_text_stays_text(tokenizer: Any, text: str) -> None:
    rows = iter([RawRow(1, {"instruction": text + "?", "output": text + "!"})])
    report = RecordReport()
    (example,) = tokenize(records_of_rows("f", rows, report), encoder_of(tokenizer, 500), TokenizationCounts(), report)
    special = [token for token in example.input_ids.tolist() if token in tokenizer.all_special_ids]
    assert special == [tokenizer.eos_token_id]
    assert tokenizer.decode(example.input_ids[example.supervised]) == text + "!<|end|>"


READ = (
    "report = RecordReport()\n"
    "records = sum(1 for _ in read_records([sys.argv[1]], report))\n"
    "print(records, report.problems)"
)


@pytest.mark.parametrize("opening", [b"", b"[", b'{"data": ', b'{"data": [', b'[{"instruction": "a", "output": "b"}'])
def test_space_of_sixty_megabytes_takes_little_memory(tmp_path: Path, opening: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(opening + b" " * (60 << 20))
    output, grown = measured(READ, path)
    assert any(told in output for told in ("the file is empty", "is not JSON at line 1, column 62914", ROW)), output
    assert grown < 50


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_text_of_a_hundred_megabytes_is_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    opening = {"a.json": b'[{"instruction": "', "a.jsonl": b'{"instruction": "', "a.csv": b'instruction,output\n"'}[
        name
    ]
    path.write_bytes(opening + b"x" * (100 << 20))
    output, grown = measured(READ, path)
    assert output.startswith("0 [")
    assert ROW in output
    assert grown < 150


def test_parquet_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    # 300 rows of 20 MiB in a file of some kilobytes.
    text = pa.array(["x" * (20 << 20)])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), text)
    pq.write_table(pa.table({"instruction": column, "output": column}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 20
    report = RecordReport()
    with time_limit(60):
        assert list(read_records([tmp_path / "a.parquet"], report)) == []
    assert report.bad_rows == 300
    assert ROW in report.problems[0]


BOMB = """
from neuralchat.data.record_files import arrow_rows
arrow_rows.UNPACKING_BYTES = {limit} << 20
report = RecordReport()
records = sum(1 for _ in read_records([sys.argv[1]], report))
print(records, report.problems)
"""


@pytest.mark.parametrize(("limit", "expected"), [(96, "0 ["), (4096, "40 []")])
def test_parquet_whose_batch_unpacks_to_more_than_may_be_taken(tmp_path: Path, limit: int, expected: str) -> None:
    """Each row is small enough, and the file too."""
    texts = pa.array(["x" * (7 << 20)] * 40)
    table = pa.table({"instruction": texts, "output": pa.array(["y"] * 40)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 20
    output, grown = measured(BOMB.strip().format(limit=limit), tmp_path / "a.parquet")
    assert output.startswith(expected)
    if limit == 96:
        assert "needs more than 96 MiB of memory after row 0; write it with smaller row groups" in output
        assert grown < 200


def test_limit_is_the_documented_one() -> None:
    assert record_files.MAX_ROW_BYTES == 8 << 20
    docs = (Path(__file__).parent.parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
    assert "One row may be at most 8 MiB" in docs
