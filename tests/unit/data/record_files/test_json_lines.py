"""record_files/json_lines.py: lines in stretches give the rows, and the problems, that lines one by one give."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralchat.data.record_files import LineStretch, RawRow, SyntaxProblem, json_lines, read_rows, read_stretches
from neuralchat.data.record_files import rows as row_limits
from neuralchat.data.record_files.json_lines import line_stretches

ODD_LINES = (
    b"", b" ", b"\xc2\x85", b"\x1c", b"null", b"5", b"NaN", b"[1, 2]", b"no JSON", b'{"a": "x"', b'{"a": "x"},',
    b'{"a": "x"}\r', b' {"a": "x"}', b'{"a": "x", "a": "y"}', b'{"a": 1, "a": 2}', b'{"a": {"b": 1, "b": 2}}',
    b'{"a": [{"b": "x", "b": "y"}]}', b'{"a": "\\"", "a": "z"}', b'{"a": "\\\\", "a": "\\\\"}',
    b'{"\\"": "", "b": null}', b'{"a": "\\u0022", "a": ""}', b'{"a": 1e999, "b": true}', b"{}", b"1" * 5000,
    b"[" * 5000, '{"a": "\u2028é"}'.encode(),
)  # fmt: skip


def plain_rows(content: bytes) -> list[Any]:
    """(number, value or None, names that came twice in any object), by a reader of its own."""
    rows: list[Any] = []
    for line in content.decode().split("\n"):
        if not line.strip():
            continue
        twice: list[str] = []

        def build(pairs: list[tuple[str, Any]], twice: list[str] = twice) -> dict[str, Any]:
            names = [name for name, _ in pairs]
            twice += sorted({name for name in names if names.count(name) > 1})
            return dict(pairs)

        try:
            value = repr(json.loads(line, object_pairs_hook=build))
        except (ValueError, RecursionError):
            rows.append((len(rows) + 1, None, 0))
        else:
            rows.append((len(rows) + 1, value, len(twice)))
    return rows


def shown(row: RawRow | SyntaxProblem) -> tuple[int | None, str | None, int]:
    return (row.number, repr(row.value), len(row.problems)) if isinstance(row, RawRow) else (row.row, None, 0)


@given(st.lists(st.sampled_from(ODD_LINES), max_size=12), st.booleans(), st.integers(1, 9), st.integers(1, 60))
def test_stretches_give_what_the_lines_hold(lines: list[bytes], has_end: bool, piece: int, stretch: int) -> None:
    content = b"\n".join(lines) + (b"\n" if has_end else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "PIECE_BYTES", piece)
        patch.setattr(json_lines, "STRETCH_BYTES", stretch)
        parts = list(line_stretches(lambda: BytesIO(content)))
    assert all(isinstance(part, LineStretch) for part in parts)
    assert [shown(row) for part in parts if isinstance(part, LineStretch) for row in part.rows()] == plain_rows(content)


def test_lines_are_counted_across_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "PIECE_BYTES", 16)
    monkeypatch.setattr(json_lines, "STRETCH_BYTES", 32)
    lines = [*['{"text": "a word"}'] * 9, "", "  ", "no JSON", '{"text": "last"}']
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    assert len(list(read_stretches(tmp_path / "a.jsonl"))) > 3
    rows = list(read_rows(tmp_path / "a.jsonl"))
    assert rows[:9] == [RawRow(number, {"text": "a word"}) for number in range(1, 10)]
    assert rows[9:] == [
        SyntaxProblem(10, "is not JSON at line 12, column 1: Expecting value", False),
        RawRow(11, {"text": "last"}),
    ]


def test_from_what_cannot_be_read_on_rows_come_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "PIECE_BYTES", 16)
    monkeypatch.setattr(json_lines, "STRETCH_BYTES", 64)
    monkeypatch.setattr(row_limits, "MAX_ROW_BYTES", 200)
    good = b'{"text": "a word"}\n'
    content = good * 20 + b'{"text": "' + b"x" * 500 + b'"}\n' + good * 9 + b"\xff\n" + good
    rows: list[RawRow | SyntaxProblem] = []

    def read() -> None:
        for part in line_stretches(lambda: BytesIO(content)):
            rows.extend(part.rows() if isinstance(part, LineStretch) else [part])

    with pytest.raises(UnicodeDecodeError):
        read()
    assert [row.number for row in rows if isinstance(row, RawRow)] == [*range(1, 21), *range(22, 31)]
    assert [row.row for row in rows if isinstance(row, SyntaxProblem)] == [21]


def test_a_file_that_becomes_shorter_while_it_is_read_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "PIECE_BYTES", 16)
    monkeypatch.setattr(json_lines, "STRETCH_BYTES", 32)
    contents = [b'{"text": "a word"}\n' * 6 + b"\xff\n", b'{"text": "a']
    parts = list(line_stretches(lambda: BytesIO(contents.pop(0))))
    assert contents == []
    assert parts
    assert all(isinstance(part, LineStretch) for part in parts)
