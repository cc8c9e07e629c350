"""A block of rows -> what each of its records shows by itself, and what has to be remembered of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from neuralchat.data.record_files import RawRow
from neuralchat.data.records import Columns, records_of_rows
from neuralchat.data.records.kinds import ALPACA_KIND
from neuralchat.data.records.reading import plain_fields_of
from neuralchat.data_tools.checking.findings import FoundInReading, Place, RowFindings
from neuralchat.data_tools.checking.record_checks import RECORD_CHECKS, RecordCheck
from neuralchat.data_tools.checking.record_table import RecordMarks
from neuralchat.data_tools.checking.record_text import RecordText, record_text
from neuralchat.data_tools.checking.row_blocks import RowBlock


@dataclass(frozen=True)
class BlockChecks:
    """How blocks are looked at. `columns`: what --columns says. `near`: make sketches for near duplicates."""

    columns: tuple[str, ...] = ()
    near: bool = True


@dataclass(frozen=True, slots=True)
class BlockFound:
    """Of one block: findings, what reading found, the columns that were there, and the marks of its records."""

    name: str
    findings: RowFindings
    read: FoundInReading
    columns: Columns
    marks: RecordMarks


def look_at_block(checks: BlockChecks, block: RowBlock, held_out: bool, most: int | None = None) -> BlockFound:
    """`held_out`: the records are only remembered. `most`: how many of the records are wanted."""
    findings = RowFindings()
    read, columns = FoundInReading(findings), Columns(checks.columns)
    texts = list(islice(texts_of_block(block, read, columns), most))
    if not held_out:
        look_at_texts(texts, findings)
    return BlockFound(block.name, findings, read, columns, RecordMarks.of(texts, near=checks.near))


def texts_of_block(block: RowBlock, read: FoundInReading, columns: Columns) -> Iterator[RecordText]:
    """The texts of its records; the plainest of rows do not become records on the way."""
    name, kind = block.name, block.kind
    if kind is None or kind.name != ALPACA_KIND:
        yield from map(record_text, records_of_rows(name, block.rows(), read, columns, kind))
        return
    for row in block.rows():
        if not isinstance(row, RawRow) or (plain := plain_fields_of(row, kind, columns)) is None:
            yield from map(record_text, records_of_rows(name, iter((row,)), read, columns, kind))
            continue
        question, context, answer = plain
        read.good += 1
        read.kinds.setdefault(name, ALPACA_KIND)
        yield RecordText(Place(name, row.number), question, context, (answer,), question, is_single=True)


def looked_at_in_turn(
    look: Callable[..., BlockFound], blocks: Iterable[RowBlock], limit: int | None
) -> Iterator[BlockFound]:
    """Each block by `look` until `limit` records are there; of the last one as many as are still wanted."""
    for block in blocks:
        found = look(block, most=limit)
        yield found
        if limit is not None and (limit := limit - found.read.good) <= 0:
            return


def look_at_texts(texts: Sequence[RecordText], findings: RowFindings) -> None:
    """Add what the checks of RECORD_CHECKS see, each check's findings in the order of the records."""
    for check, given in given_to_checks(texts):
        find = check.find
        for text in given:
            if (seen := find(text)) is not None:
                findings.add(check.about, text.place, seen)


def given_to_checks(texts: Sequence[RecordText]) -> Iterator[tuple[RecordCheck, Sequence[RecordText]]]:
    """Each check with the texts that it has to see: those that have its hint."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not texts:
        return
    wholes = pa.array([text.whole for text in texts], pa.large_string())
    # One search for all hints leaves few texts to look for each of them in.
    has_any = pc.match_substring_regex(wholes, pattern=ANY_HINT)
    few = [texts[index] for index in pc.indices_nonzero(has_any).to_pylist()]
    few_wholes = wholes.filter(has_any)
    for check in RECORD_CHECKS:
        if not check.hint:
            yield check, texts
        elif few:
            has_hint = pc.match_substring_regex(few_wholes, pattern=check.hint)
            yield check, [few[index] for index in pc.indices_nonzero(has_hint).to_pylist()]


ANY_HINT = "|".join(f"(?:{check.hint})" for check in RECORD_CHECKS if check.hint)
