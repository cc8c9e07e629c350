"""data/record_files/table_rows.py: tables of every separator equal what the csv module wrote."""

from __future__ import annotations

import csv
import doctest
import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import only_problem, rows_of, values_of

from neuralchat.data.record_files import RawRow, read_rows, table_rows
from neuralchat.data.records import Record, RecordReport, Turn, read_records

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


@given(rows=st.lists(TABLE_CELLS.filter(bool), max_size=5), separator=st.sampled_from(",;\t|"))
def test_one_column_has_no_separator(rows: list[str], separator: str) -> None:
    """Whatever the writer would have put between cells: there it quoted that sign only, and the others stand bare."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.csv"
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            csv.writer(stream, delimiter=separator).writerows([("text",), *((cell,) for cell in rows)])
        found = list(read_rows(path))
    assert values_of(found) == [{"text": cell} for cell in rows]


SEPARATED = [
    ("question;answer\nOne, two, three?;a, b\nFour, five?;c\n", {"question": "One, two, three?", "answer": "a, b"}),
    ("instruction,output\na;b;c,d;e\n", {"instruction": "a;b;c", "output": "d;e"}),
    ('"a, b";"c, d"\n"1, 2";"3, 4"\n', {"a, b": "1, 2", "c, d": "3, 4"}),
    ("text\na; b\n", {"text": "a; b"}),
    ("text\none, two; three\n", {"text": "one, two; three"}),
    ('messages\n[{"role": "user", "content": "a"}]\n', {"messages": '[{"role": "user", "content": "a"}]'}),
    ('question, answer\n"a, b", "c, d"\n', {"question": "a, b", "answer": "c, d"}),
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


def test_more_than_the_only_column() -> None:
    problem = only_problem(rows_of('text\n"a","b"\n', "a.csv"))
    assert (problem.row, problem.fatal) == (1, True)
    assert problem.what == "is not CSV (line 2): text after the closing quote of the only column"


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


def test_doctests() -> None:
    outcome = doctest.testmod(table_rows)
    assert outcome.attempted >= 2
    assert outcome.failed == 0


BLANKS = ["NaN", "nan", "None", "null", "NULL", "<NA>", "NaT", r"\N", " NaN "]


def read_table_of(tmp_path: Path, name: str, *rows: tuple[str, ...]) -> tuple[list[Record], RecordReport]:
    path = tmp_path / name
    separator = "\t" if name.endswith(".tsv") else ","
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=separator).writerows(rows)
    report = RecordReport()
    return list(read_records([path], report)), report


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("blank", BLANKS)
def test_words_for_nothing_are_empty_cells(tmp_path: Path, name: str, blank: str) -> None:
    header = ("instruction", "input", "output", "system", "history", "id", "facts")
    (record,), report = read_table_of(tmp_path, name, header, ("Hi?", blank, "Hi.", *[blank] * 4))
    assert record.turns == (Turn("user", "Hi?"), Turn("assistant", "Hi."))
    assert report.problems == []
    assert report.ignored_fields == set()


@pytest.mark.parametrize("blank", ["NaN", "nan", "<NA>", "NaT", r"\N", " NaN "])
def test_what_programs_write_for_nothing_is_no_question_and_no_answer(tmp_path: Path, blank: str) -> None:
    records, report = read_table_of(tmp_path, "a.csv", ("question", "answer"), ("Why?", blank), (blank, "So."))
    assert records == []
    assert [problem.partition(": ")[2] for problem in report.problems] == [
        f"field '{field}' holds '{blank.strip()}', which tables write for nothing; where the word itself is meant, "
        "write the records as JSON"
        for field in ("answer", "question")
    ]


@pytest.mark.parametrize("word", ["None", "null", "NULL", " None "])
def test_a_word_that_may_be_an_answer_is_one_and_is_told(tmp_path: Path, word: str) -> None:
    rows = [("question", "answer"), ("Any allergies?", word), ("What is red?", "A cherry."), ("And blue?", word)]
    records, report = read_table_of(tmp_path, "a.csv", *rows, (word, "It is missing."))
    assert [(record.turns[0].content, record.turns[1].content) for record in records] == [
        *rows[1:],
        (word, "It is missing."),
    ]
    assert all(type(turn.content) is str for record in records for turn in record.turns)
    assert report.problems == []
    assert [doubt.told() for doubt in report.doubts.values()] == [
        f"{tmp_path / 'a.csv'} row{where}: field '{field}' holds '{word.strip()}', which is trained on as that word; "
        "where it means nothing, leave the row out"
        for where, field in (("s 1, 3 (2 rows)", "answer"), (" 4", "question"))
    ]


@pytest.mark.parametrize("word", ["NA", "N/A", "n/a", "none", "Null", "nil", "-", "0", "False"])
def test_other_short_answers_are_kept_without_a_word(tmp_path: Path, word: str) -> None:
    (record,), report = read_table_of(tmp_path, "a.csv", ("question", "answer"), ("Any allergies?", word))
    assert record.turns[1].content == word
    assert (report.problems, report.doubts) == ([], {})


def test_words_in_a_text_and_in_json_are_words(tmp_path: Path) -> None:
    (record,), _ = read_table_of(tmp_path, "a.csv", ("question", "answer"), ("Is NaN equal to NaN?", "None is."))
    assert record.turns[1].content == "None is."
    (tmp_path / "a.json").write_text('[{"question": "What does print(None) write?", "answer": "None"}]')
    (record,) = read_records([tmp_path / "a.json"], RecordReport())
    assert record.turns[1].content == "None"
