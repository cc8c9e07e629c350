"""JSON -> raw rows: an array, an object that holds the rows under one key, objects one after another, or one a line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuralchat.data.record_files import json_text, rows
from neuralchat.data.record_files.json_columns import TURN_KEYS, rows_of_columns
from neuralchat.data.record_files.json_lines import LineStretch, RowsOrStretches, line_stretches
from neuralchat.data.record_files.json_text import JsonDecoder, JsonText
from neuralchat.data.record_files.packed import open_unpacked
from neuralchat.data.record_files.rows import RawRow, Rows, SyntaxProblem, readable, too_large

# Rows, and as the result the position after them, or None where nothing after them can be read.
RowsTo = Generator[RawRow | SyntaxProblem, None, int | None]
# Fields that do not make a record by themselves.
NO_RECORD_ALONE = frozenset({"system", "input", "context", "response", "history", "tools", "functions", "facts"})
WRITE_ROWS = (
    '; a whole file by columns is written by rows with to_json("FILE.jsonl", orient="records", lines=True) of pandas, '
    'or to_json("FILE.jsonl") of datasets'
)
# What a line ends with if its object or array goes on in the next.
GOES_ON = "{[,:"


def read_json(path: Path, fields: Collection[str], *, by_line: bool) -> RowsOrStretches:
    """`by_line`: the file's name says that each line is a row; then an array must be spread over lines to be one."""
    found = json_rows(path, fields, by_line=by_line)
    head = next(found, None)
    begin: Rows = head.rows() if isinstance(head, LineStretch) else iter([head] if head is not None else [])
    first = next(begin, None)
    whole = isinstance(first, RawRow) and not first.problems and begins_as_object(path)
    columns = rows_of_columns(first.value, fields) if isinstance(first, RawRow) and whole else None
    large = isinstance(first, SyntaxProblem) and first.what == too_large() and begins_as_object(path)
    is_alone = next(begin, None) is None and (columns is not None or large)
    after = next(found, None) if is_alone else None
    if after is None and is_alone:
        if columns is not None:
            yield from (RawRow(number, row) for number, row in enumerate(columns, start=1))
        elif isinstance(first, SyntaxProblem):
            yield replace(first, what=f"{first.what}{WRITE_ROWS}")
        return
    yield from (part for part in (head, after) if part is not None)
    yield from found


def begins_as_object(path: Path) -> bool:
    with open_unpacked(path) as stream:
        return stream.read(1 << 10).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{")


def json_rows(path: Path, fields: Collection[str], *, by_line: bool) -> RowsOrStretches:
    with open_unpacked(path) as stream:
        text = JsonText(stream)
        start = text.next(0)
        first = text.at(start)
        if not first:
            if not by_line:
                yield SyntaxProblem(None, "the file is empty", True)
            return
        if first == "[" and (not by_line or is_spread(text, start)):
            yield from array_rows(text, start)
            return
        if first == "{" and not (is_line_by_line(text, start, fields)):
            yield from object_rows(text, start, fields)
            return
    yield from line_stretches(lambda: open_unpacked(path))


def first_line(text: JsonText, start: int) -> str:
    """The line that begins at `start`, as much of it as a row may have."""
    while "\n" not in text.text[start:] and len(text.text) - start <= rows.MAX_ROW_BYTES and not text.ended:
        text.grow()
    return text.text[start : start + rows.MAX_ROW_BYTES + 1].partition("\n")[0].rstrip()


def is_spread(text: JsonText, start: int) -> bool:
    """Whether the array or object at `start` goes on after its first line."""
    line = first_line(text, start)
    if line[-1] not in GOES_ON:
        return False
    try:
        JsonDecoder().decoder.decode(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line)
    except (RecursionError, ValueError):
        return False
    return False


def is_line_by_line(text: JsonText, start: int, fields: Collection[str]) -> bool:
    """Whether an object begins at `start` that is the first of one a line, and none that holds records."""
    if is_spread(text, start):
        return False
    line = first_line(text, start)
    if len(line) > rows.MAX_ROW_BYTES:
        # Records under a key, all in one line, or a row that is too large.
        return not begins_with_records(text, start, fields)
    try:
        value = JsonDecoder().decoder.decode(line)
    except (RecursionError, ValueError):
        return True
    after = start + text.text[start:].find("\n") if "\n" in text.text[start:] else len(text.text)
    lists = (held for key, held in value.items() if key not in fields and isinstance(held, list))
    holds_records = any(held and may_be_record(held[0]) for held in lists) or any(
        is_named_record(key, held, fields) for key, held in value.items()
    )
    if is_record(value, fields) or not holds_records:
        return True
    # What follows may not have been read yet.
    while not text.text[after:].strip() and len(text.text) - after <= rows.MAX_ROW_BYTES and not text.ended:
        text.grow()
    return bool(text.text[after:].strip())


def is_record(value: Iterable[str], fields: Collection[str]) -> bool:
    """Whether an object with these keys is a record itself."""
    return any(key in fields and key not in NO_RECORD_ALONE for key in value)


def is_named_record(name: str, value: Any, fields: Collection[str]) -> bool:
    """Whether an object's member is a record under a name of its own, as in {"id1": {...}, "id2": {...}}."""
    return name not in fields and isinstance(value, dict) and is_record(value, fields)


def may_be_record(value: Any) -> bool:
    """Whether an element of a list is an object, and no turn of a conversation."""
    return isinstance(value, dict) and not TURN_KEYS.intersection(value)


def begins_with_records(text: JsonText, start: int, fields: Collection[str]) -> bool:
    """Whether a key of the object in the window has a list of objects, or a record, and is no field of a record."""
    position = start + 1
    window = text.text
    while True:
        try:
            key, position = text.decoder.decoder.raw_decode(window, skip(window, position))
            position = skip(window, position)
            if not isinstance(key, str) or window[position : position + 1] != ":" or key in fields:
                return False
            position = skip(window, position + 1)
            inside = skip(window, position + 1)
            if window[position : position + 1] == "[" and window[inside : inside + 1] == "{":
                return True
            held, position = text.decoder.decoder.raw_decode(window, position)
            if is_named_record(key, held, fields):
                return True
            position = skip(window, position) + 1
        except (RecursionError, ValueError):
            return False
        finally:
            text.decoder.take_problems()


def skip(window: str, position: int) -> int:
    while position < len(window) and window[position] in json_text.WHITESPACE:
        position += 1
    return position


def array_rows(text: JsonText, start: int) -> Rows:
    """The elements of the array that the text is."""
    end = yield from elements(text, start, 0)
    if end is not None and (end := text.next(end)) < len(text.text):
        yield SyntaxProblem(None, text.problem(end, "text after the closing ']'"), True)


def elements(text: JsonText, start: int, number: int) -> RowsTo:
    """The elements of the array at `start`, the first of them numbered `number` + 1."""
    position = text.next(start + 1)
    while text.at(position) != "]":
        number += 1
        decoded = text.value(position)
        if isinstance(decoded, str):
            yield SyntaxProblem(number, decoded, True)
            return None
        value, end = decoded
        yield RawRow(number, value, text.decoder.take_problems())
        position = text.next(end)
        if text.at(position) == ",":
            position = text.next(position + 1)
        elif text.at(position) != "]":
            what = text.problem(position, f"expected ',' or ']' after row {number}")
            yield SyntaxProblem(None, what, True)
            return None
        position = text.cut(position)
    return position + 1


def object_rows(text: JsonText, start: int, fields: Collection[str]) -> Rows:
    """The records under one key of the object at `start`; where there are none, the object, and those after it."""
    members: dict[str, Any] = {}
    under: list[str] = []
    position: int | None = text.next(start + 1)
    repeated: list[str] = []
    # Records under names of their own.
    named: set[str] = set()
    while position is not None and text.at(position) != "}":
        key = text.value(position)
        if isinstance(key, str) or not isinstance(key[0], str):
            what = key if isinstance(key, str) else text.problem(position, "expected a name in double quotes")
            yield SyntaxProblem(None if under else 1, what, True)
            return
        name, position = key[0], text.next(key[1])
        if text.at(position) != ":":
            yield SyntaxProblem(None if under else 1, text.problem(position, "expected ':'"), True)
            return
        if name in members or name in under or name in named:
            repeated.append(f"field '{readable(name)}' is given more than once")
        position = text.next(position + 1)
        if name not in fields and not is_record(members, fields) and opens_records(text, position):
            under.append(name)
            if len(under) > 1:
                yield SyntaxProblem(None, several_lists(under), True)
                return
            position = yield from elements(text, position, 0)
        else:
            decoded = text.value(position)
            if isinstance(decoded, str):
                yield SyntaxProblem(None if under else 1, decoded, True)
                return
            value, position = decoded
            if not members and not under and is_named_record(name, value, fields):
                named.add(name)
                yield RawRow(len(named), value, (*repeated, *text.decoder.take_problems()))
                repeated = []
            else:
                members[name] = value
            if named and members:
                what = f"holds records under names of their own, and '{readable(name)}', which is none; take it out"
                yield SyntaxProblem(None, what, True)
                return
        if position is None:
            return
        position = text.next(position)
        if text.at(position) == ",":
            position = text.cut(text.next(position + 1))
        elif text.at(position) != "}":
            yield SyntaxProblem(None if under else 1, text.problem(position, "expected ',' or '}'"), True)
            return
    assert position is not None
    if not under and not named:
        yield RawRow(1, members, (*repeated, *text.decoder.take_problems()))
        yield from objects_after(text, position + 1)
        return
    if beside := [name for name in members if name in fields]:
        yield SyntaxProblem(
            None,
            f"holds records under '{readable(under[0])}', and fields of a record beside them: "
            f"{', '.join(beside)}; put the records alone into the file",
            True,
        )
    elif (end := text.next(position + 1)) < len(text.text):
        yield SyntaxProblem(None, text.problem(end, "text after the closing '}'"), True)


def several_lists(names: list[str]) -> str:
    shown = ", ".join(readable(name) for name in names)
    return f"holds lists of objects under several keys: {shown}; keep one, or give each a file"


def opens_records(text: JsonText, position: int) -> bool:
    """Whether an array whose first element is an object begins at `position`, which stays valid."""
    if text.at(position) != "[":
        return False
    while (after := skip(text.text, position + 1)) == len(text.text) and not text.ended:
        if after - position > rows.MAX_ROW_BYTES:
            return False
        text.grow()
    first = text.value(after) if text.at(after) == "{" else ("", 0)
    text.decoder.take_problems()
    # What is wrong with it is told when it is read as a row.
    return isinstance(first, str) or may_be_record(first[0])


def objects_after(text: JsonText, position: int) -> Rows:
    """Objects that follow the first, spread over lines, as some programs write them."""
    number = 1
    while (position := text.next(text.cut(position))) < len(text.text):
        number += 1
        decoded = text.value(position)
        if isinstance(decoded, str):
            yield SyntaxProblem(number, decoded, True)
            return
        yield RawRow(number, decoded[0], text.decoder.take_problems())
        position = decoded[1]
