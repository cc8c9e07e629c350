"""files -> Record: every source becomes one record type at the door, and every problem is told together.

Files are streamed: memory does not grow with their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuralchat.config.arguments import RECORD_FIELDS
from neuralchat.data.record_files import TURN_KEYS, RawRow, SyntaxProblem, read_rows, readable
from neuralchat.data.records.columns import Columns
from neuralchat.data.records.kinds import ALPACA_KIND, RecordKind, plain_fields, recognise, record_of
from neuralchat.data.records.record import Record, Turn
from neuralchat.data.records.report import RecordReport
from neuralchat.data.records.values import Findings

NO_COLUMNS = Columns()
# What people call the columns of questions, of answers, and of what a question is about.
ASKED = (("instruction", "prompt", "question", "query", "q", "user"), ("input", "problem"))
ANSWERED = (("output", "completion", "answer", "response", "a", "reply", "assistant"), ("solution", "chosen"))
CONTEXT = (("input", "context"),)


def read_records(paths: Sequence[str | Path], report: RecordReport, columns: Columns = NO_COLUMNS) -> Iterator[Record]:
    """Yield the good records of all files in order; problems are added to `report`."""
    fields = {*RECORD_FIELDS, *columns.columns.values()}
    for path in paths:
        yield from records_of_rows(str(path), read_rows(Path(path), fields), report, columns)


def records_of_rows(
    name: str,
    rows: Iterator[RawRow | SyntaxProblem],
    report: RecordReport,
    columns: Columns = NO_COLUMNS,
    kind: RecordKind | None = None,
) -> Iterator[Record]:
    """Turn raw rows into records. `name` is the file (or data set) that messages quote, `kind` what it began with where
    `rows` are not its first.
    """
    rows_seen = 0
    for row in rows:
        if isinstance(row, SyntaxProblem):
            report.add(name, row.row, row.what)
            report.fatal |= row.fatal
            report.bad_rows += 1
            continue
        rows_seen += 1
        if kind is not None and (plain := plain_record(row, kind, columns, name)) is not None:
            report.good += 1
            report.kinds.setdefault(name, plain.kind)
            yield plain
            continue
        value = columns.renamed(as_object(row.value))
        found = recognise(value, kind)
        kind = kind or found
        findings = Findings(list(row.problems))
        record = None
        if found is not None and found is not kind:
            assert kind is not None
            findings.problem(
                f"is {'an' if found.name[0] in 'AEIOU' else 'a'} {found.name} record, but the file began with "
                f"{kind.name} records; use one kind a file"
            )
        else:
            record = record_of(value, found, f"{name} row {row.number}", findings)
        if record is None:
            report.add_row(name, row.number, findings.problems)
            is_missing = any(" is missing; found " in what for what in findings.problems)
            # What is no object has no columns.
            if is_missing or (found is None and isinstance(value, dict) and value):
                report.unrecognised = True
                report.columns_to_name = report.columns_to_name or columns_to_name(value)
            report.bad_rows += 1
            continue
        report.good += 1
        report.kinds.setdefault(name, record.kind)
        report.ignore(findings.unused)
        report.doubt(name, row.number, findings.doubts)
        yield record
    if rows_seen == 0 and not report.fatal and not report.bad_rows:
        report.add(name, None, "the file holds no record")
        report.fatal = True


def plain_record(row: RawRow, kind: RecordKind, columns: Columns, name: str) -> Record | None:
    """The record of the plainest and commonest of rows, as `pair` reads it field by field; None for others."""
    plain = plain_fields_of(row, kind, columns)
    if plain is None:
        return None
    question, context, answer = plain
    return Record((Turn("user", question, context), Turn("assistant", answer)), f"{name} row {row.number}", ALPACA_KIND)


def plain_fields_of(row: RawRow, kind: RecordKind, columns: Columns) -> tuple[str, str, str] | None:
    if kind.name != ALPACA_KIND or row.problems or columns.columns or not isinstance(row.value, dict):
        return None
    return plain_fields(row.value)


def kind_of_rows(rows: Iterable[RawRow | SyntaxProblem], columns: Columns = NO_COLUMNS) -> RecordKind | None:
    """The kind that a file has which begins with these rows; None where none of them is a record."""
    values = (columns.renamed(as_object(row.value)) for row in rows if isinstance(row, RawRow))
    return next(filter(None, map(recognise, values)), None)


def as_object(value: Any) -> Any:
    """A row that is a list of turns, as the object that it stands for; any other as it is."""
    return {"messages": value} if is_list_of_turns(value) else value


def is_list_of_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def is_turn(value: Any) -> bool:
    return isinstance(value, dict) and not TURN_KEYS.isdisjoint(value)


def columns_to_name(value: Any) -> tuple[str, ...]:
    """What --columns could say of a row: the column with a list of turns, or those of a question and its answer.

    Nothing where that is a guess: a mapping of one of the two alone would only be refused again.

    >>> columns_to_name({"Prompt": "Name a fruit.", " OUTPUT": "An apple.", "Topic": "Fruit"})
    ('instruction=Prompt', 'output= OUTPUT')
    >>> columns_to_name({"Topic": "Fruit", "Answer": "An apple."})
    ()

    Of two columns alone the first is taken for the question; the user sees both names, and knows.

    >>> columns_to_name({"Frage": "Nenne eine Frucht.", "Antwort": "Apfel."})
    ('instruction=Frage', 'output=Antwort')
    """
    if not isinstance(value, dict):
        return ()
    turns = [f"messages={readable(str(name))}" for name, held in value.items() if is_list_of_turns(held)]
    asked, answered = (found(value, names) for names in (ASKED, ANSWERED))
    if not asked and not answered and len(value) == 2 and all(isinstance(held, str) for held in value.values()):
        asked, answered = ([str(name)] for name in value)
    if turns or len(asked) != 1 or len(answered) != 1:
        return tuple(turns[:1])
    context = [name for name in found(value, CONTEXT) if name not in asked]
    pairs = [("instruction", asked), ("output", answered), ("input", context[:1])]
    return tuple(f"{field}={readable(name)}" for field, names in pairs for name in names if name != field)


def found(value: Mapping[Any, Any], names: Sequence[Sequence[str]]) -> list[str]:
    """The columns of a row with these names, however they are spelled; of several groups of names the first that is
    there.
    """
    spelled = [name for name in value if isinstance(name, str)]
    groups = ([name for name in spelled if name.strip().lower() in group] for group in names)
    return next(filter(None, groups), [])
