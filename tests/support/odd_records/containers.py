"""Rows -> the content of a record file of some kind, and whole files that are made up from a seed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from neuralchat.data.records import Turn
from support.odd_records.formats import WRITERS, conversations
from support.odd_records.mistakes import SPOILERS, add_unused


class MadeFile(NamedTuple):
    """`rows`: the turns of each row, None for a wrong one. `unused`: the fields of right rows that nobody reads."""

    format: str
    ending: str
    content: bytes
    rows: list[list[Turn] | None]
    unused: set[str]


def as_json(rng: random.Random, rows: list[Any]) -> tuple[str, bytes]:
    shape = rng.choice(["array", "lines", "lines", "object", "spread"])
    indent = rng.choice([None, 1, 4])
    ascii_only = rng.random() < 0.5
    line_end = rng.choice(["\n", "\r\n", "\n\n"])

    def dumped(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ascii_only or "\\ud83d" in json.dumps(value), indent=indent)

    if shape == "array":
        content, endings = dumped(rows, indent), [".json"]
    elif shape == "lines":
        content, endings = line_end.join(map(dumped, rows)), [".json", ".jsonl", ".ndjson"]
    elif shape == "object":
        beside = {"version": "1.0", "license": None, "tags": ["a"]}
        data = {rng.choice(["data", "train", "rows"]): rows}
        content = dumped({**beside, **data} if rng.random() < 0.5 else {**data, **beside}, indent)
        endings = [".json", ".jsonl"]
    else:
        content, endings = line_end.join(dumped(row, indent or 2) for row in rows), [".json", ".jsonl"]
    return rng.choice(endings), content.encode("utf-8-sig" if rng.random() < 0.2 else "utf-8")


def as_table(rng: random.Random, rows: list[Any]) -> tuple[str, bytes]:
    ending = rng.choice([".csv", ".csv", ".tsv"])
    separator = "\t" if ending == ".tsv" else rng.choice(",;|\t")
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow(names)
    writer.writerows([cell(row.get(name)) for name in names] for row in rows)
    return ending, stream.getvalue().encode("utf-8-sig" if rng.random() < 0.3 else "utf-8")


def cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def fits_table(row: dict[str, Any]) -> bool:
    """Whether a row says the same as a row of a table, where every value is text and none is nothing."""
    for name, value in row.items():
        # Lists stand in a table as their JSON text, where no text could be meant.
        if isinstance(value, list) and name in ("messages", "conversations", "tools", "history"):
            continue
        # What tables write for nothing cannot be told from the word (docs/data.md).
        if value in ("NaN", "null") or not (
            value is None or value != value or (isinstance(value, str) and value and not set("\ud83d\r") & set(value))
        ):
            return False
    return True


def as_parquet(rng: random.Random, rows: list[Any]) -> tuple[str, bytes] | None:
    try:
        table = pa.Table.from_pylist(rows)
        sink = io.BytesIO()
        pq.write_table(table, sink)
    except (pa.ArrowException, UnicodeEncodeError, TypeError, AttributeError):
        return None
    # Types that were brought together would make other rows of them.
    return (".parquet", sink.getvalue()) if repr(table.to_pylist()) == repr(rows) else None


def made_file(rng: random.Random) -> MadeFile:
    name = rng.choice(list(WRITERS))
    writer = WRITERS[name]
    rows: list[dict[str, Any]] = []
    expected: list[list[Turn] | None] = []
    unused: set[str] = set()
    wanted = rng.choice([1, 2, 5, 9])
    wrong = rng.choice([0.0, 0.0, 0.3, 1.0])
    key: str | None = None
    while len(rows) < wanted:
        row, turns = writer(rng)
        if writer is conversations:
            # One kind a file.
            mine = "messages" if "messages" in row else "conversations"
            key = key or mine
            if mine != key:
                continue
        if rng.random() < wrong:
            if not rng.choice(SPOILERS)(rng, row):
                continue
            expected.append(None)
        else:
            unused |= add_unused(rng, row)
            expected.append(turns)
        rows.append(row)
    ending, content = as_container(rng, rows)
    packing = rng.choice(["", "", ".gz", ".zst"]) if ending != ".parquet" else ""
    if packing == ".gz":
        content = gzip.compress(content)
    elif packing == ".zst":
        content = bytes(pa.compress(content, "zstd", asbytes=True))
    ending += packing if rng.random() < 0.8 else ""
    return MadeFile(key or name, ending, content, expected, unused)


def as_container(rng: random.Random, rows: list[Any]) -> tuple[str, bytes]:
    kind = rng.choice(["json", "json", "table", "parquet"])
    if kind == "table" and all(map(fits_table, rows)):
        return as_table(rng, rows)
    return (as_parquet(rng, rows) if kind == "parquet" else None) or as_json(rng, rows)
