"""Made-up record files of every format, in every container, some rows odd and some wrong, which is known beforehand.

Each file is made from conversations: a writer puts each into a format and says what must be read from it, spoilers
break some rows, a container puts the rows into a file. The right records must come back, and the wrong rows be named.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fuzzing import time_limit

from neuralchat.data.records import RecordReport, Turn, read_records
from neuralchat.errors import DataError

FILES = int(os.environ.get("NEURALCHAT_ODD_FILES", "200"))
WORDS = [
    "water", "boils", "at 100,5", "é", "🙂", "</s>", '"quoted"', "a;b", "x|y", "tab\there", "{{ messages }}", "[INST]",
    "\\n", "### Response:", "line\nbreak", "a\u2028b", "<|im_end|>", "null", "NaN", "{", "]",
]  # fmt: skip
Conversation = tuple[str, list[tuple[str, str]]]
Written = tuple[dict[str, Any], list[Turn]]


def words(rng: random.Random, most: int = 6) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def conversation(rng: random.Random, turns: int) -> Conversation:
    """(system text or empty, pairs of question and answer)."""
    return words(rng) if rng.random() < 0.3 else "", [(words(rng), words(rng)) for _ in range(turns)]


def turns_of(talk: Conversation) -> list[Turn]:
    system, pairs = talk
    spoken = [turn for asked, said in pairs for turn in (Turn("user", asked), Turn("assistant", said))]
    return [Turn("system", system), *spoken] if system else spoken


def absent(rng: random.Random) -> Any:
    return rng.choice([None, "", float("nan")])


def alpaca(rng: random.Random) -> Written:
    talk = conversation(rng, rng.randint(1, 3))
    system, pairs = talk
    asked, said = pairs[-1]
    turns = turns_of(talk)
    row: dict[str, Any] = {"instruction": asked, rng.choice(["output", "response"]): said}
    if system or rng.random() < 0.3:
        row["system"] = system or absent(rng)
    if len(pairs) > 1 or rng.random() < 0.3:
        earlier = [list(pair) for pair in pairs[:-1]]
        row["history"] = rng.choice([earlier, json.dumps(earlier)])
    if rng.random() < 0.5:
        context = words(rng) if rng.random() < 0.5 else ""
        row[rng.choice(["input", "context"])] = context or absent(rng)
        turns[-2] = Turn("user", asked, context)
    return row, turns


def question_answer(rng: random.Random) -> Written:
    talk = ("", conversation(rng, 1)[1])
    ((asked, said),) = talk[1]
    return {rng.choice(["question", "query"]): asked, rng.choice(["answer", "answer", "response"]): said}, turns_of(
        talk
    )


def prompt_completion(rng: random.Random) -> Written:
    talk = conversation(rng, rng.randint(1, 2))
    turns = turns_of(talk)
    if len(turns) == 2 and rng.random() < 0.6:
        return {"prompt": turns[0].content, rng.choice(["completion", "response"]): turns[1].content}, turns
    listed = [message(rng, turn, "role", "content") for turn in turns]
    completion: Any = listed[-1:] if rng.random() < 0.7 else turns[-1].content
    turns = [Turn(t.role, t.content, trained=t.role != "assistant") for t in turns[:-1]] + turns[-1:]
    return {"prompt": listed[:-1], "completion": completion}, turns


def message(rng: random.Random, turn: Turn, role_key: str, text_key: str) -> dict[str, Any]:
    names = {
        "system": ["system", "developer"],
        "user": ["user", "human", "User"],
        "assistant": ["assistant", "gpt", "bot", "model"],
        "tool": ["tool", "function", "observation", "ipython"],
    }
    content: Any = turn.content
    if rng.random() < 0.2:
        at = rng.randint(0, len(content))
        content = [
            {"type": "text", "text": content[:at]},
            rng.choice([content[at:], {"type": "text", "text": content[at:]}]),
        ]
    made = {role_key: rng.choice(names[turn.role]), text_key: content}
    if rng.random() < 0.2:
        made[rng.choice(["name", "tool_calls", "weight", "reasoning"])] = None
    return made


def conversations(rng: random.Random) -> Written:
    key, role_key, text_key = rng.choice([("messages", "role", "content"), ("conversations", "from", "value")])
    talk = conversation(rng, rng.randint(1, 3))
    turns = turns_of(talk)
    made = [message(rng, turn, role_key, text_key) for turn in turns]
    row: dict[str, Any] = {key: made}
    if talk[0] and rng.random() < 0.5:
        row["system"] = talk[0]
        del made[0]
    offset = len(turns) - len(made)
    for index, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        if rng.random() < 0.2:
            made[index - offset] |= rng.choice([{"weight": 0}, {"train": False}, {"weight": 0.0, "train": False}])
            turns[index] = Turn("assistant", turn.content, trained=False)
        elif rng.random() < 0.2:
            made[index - offset] |= {rng.choice(["thinking", "reasoning", "reasoning_content"]): "Well."}
            turns[index] = Turn("assistant", turn.content, reasoning="Well.")
    if rng.random() < 0.2:
        # A call and its result before the last answer.
        call = {"name": "f", "arguments": rng.choice([{"x": 1}, '{"x": 1}'])}
        made[-1:-1] = [
            {
                role_key: "assistant",
                text_key: None,
                "tool_calls": [rng.choice([call, {"type": "function", "function": call}])],
            },
            {role_key: "tool", text_key: "5", "tool_call_id": "c"},
        ]
        called = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
        turns[-1:-1] = [Turn("assistant", "", tool_calls=(called,)), Turn("tool", "5", extra={"tool_call_id": "c"})]
    return row, turns


def text(rng: random.Random) -> Written:
    said = words(rng, 30)
    return {"text": said}, [Turn("assistant", said)]


WRITERS = {
    "alpaca": alpaca,
    "question_answer": question_answer,
    "prompt_completion": prompt_completion,
    "conversations": conversations,
    "text": text,
}
MAIN = ("output", "response", "answer", "completion", "messages", "conversations", "text")


def main_field(row: dict[str, Any]) -> str:
    return next(name for name in MAIN if name in row)


def spoil_value(rng: random.Random, row: dict[str, Any]) -> bool:
    """A value of another type, or nothing, where the answer should be."""
    row[main_field(row)] = rng.choice([None, 7, True, "", " \n", [], {}, [7], {"a": "b"}, float("nan"), "\ud83d"])
    return True


def spoil_name(rng: random.Random, row: dict[str, Any]) -> bool:
    name = main_field(row)
    row[name.upper() + "x"] = row.pop(name)
    return True


def spoil_side(rng: random.Random, row: dict[str, Any]) -> bool:
    """A field beside the answer that is no text or list."""
    if main_field(row) == "text":
        return False
    row[rng.choice(["tools", "facts"])] = rng.choice([7, {"a": 1}, ["", 7], "x"])
    return True


def listed_turns(row: dict[str, Any]) -> list[Any] | None:
    found = row.get("messages", row.get("conversations", row.get("prompt")))
    return found if isinstance(found, list) and found else None


def spoil_order(rng: random.Random, row: dict[str, Any]) -> bool:
    turns = listed_turns(row)
    if turns is None:
        return False
    turns.insert(0, dict(turns[-1]) if "prompt" not in row else {"role": "assistant", "content": "a"})
    return True


def spoil_turn(rng: random.Random, row: dict[str, Any]) -> bool:
    turns = listed_turns(row)
    if turns is None:
        return False
    at = rng.randrange(len(turns))
    broken = [
        7, None, "Hi", [], {}, {"role": "user"}, {"role": "narrator", "content": "a", "from": "x"},
        {**turns[at], "weight": 0.5}, {**turns[at], "train": "yes"}, {**turns[at], "name": 7},
        {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, {"role": "user", "content": {"a": 1}},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "{}"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": "x"}]},
    ]  # fmt: skip
    turns[at] = rng.choice(broken)
    return True


def spoil_history(rng: random.Random, row: dict[str, Any]) -> bool:
    if "instruction" not in row:
        return False
    row["history"] = rng.choice([7, "x", [["a"]], [["a", 7]], [["a", ""]], {"a": "b"}, [7]])
    return True


SPOILERS = [spoil_value, spoil_value, spoil_name, spoil_side, spoil_order, spoil_turn, spoil_history]


def add_unused(rng: random.Random, row: dict[str, Any]) -> set[str]:
    """Fields that nobody reads, which must be named; those without a value are not."""
    named = set()
    for name, value in (("id", 7), ("note", None), ("source", "web"), ("", "0")):
        if rng.random() < 0.15:
            row[name] = value
            named |= {name or "a column without a name"} if value is not None else set()
    turns = listed_turns(row)
    if turns and rng.random() < 0.15:
        turns[-1]["score"] = 1
        named.add(
            ("messages" if "messages" in row else "conversations" if "conversations" in row else "prompt") + "[].score"
        )
    return named


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
        if not (
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


def made_file(rng: random.Random) -> tuple[str, bytes, list[list[Turn] | None], set[str]]:
    """(ending, content, turns of each row or None for a wrong one, unused fields of the right ones)."""
    writer = WRITERS[rng.choice(list(WRITERS))]
    rows, expected, unused = [], [], set()
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
    return ending + (packing if rng.random() < 0.8 else ""), content, expected, unused


def as_container(rng: random.Random, rows: list[Any]) -> tuple[str, bytes]:
    kind = rng.choice(["json", "json", "table", "parquet"])
    if kind == "table" and all(map(fits_table, rows)):
        return as_table(rng, rows)
    return (as_parquet(rng, rows) if kind == "parquet" else None) or as_json(rng, rows)


def rows_named(problems: list[str], path: Path) -> set[int]:
    """The rows that messages name, such as: a.json row 3, a.json rows 1, 4-6 (4 rows)."""
    named: set[int] = set()
    for problem in problems:
        found = re.match(re.escape(str(path)) + r" rows? ([\d, -]+?)(?: \(\d+ rows\)(?:, the first)?)?: ", problem)
        assert found, problem
        for part in found[1].split(", "):
            first, _, last = part.partition("-")
            named.update(range(int(first), int(last or first) + 1))
    return named


@pytest.mark.parametrize("part", range(4))
def test_made_up_files(tmp_path: Path, part: int) -> None:
    met = set()
    for seed in range(part, FILES, 4):
        ending, content, expected, unused = made_file(random.Random(seed))
        path = tmp_path / f"{seed}{ending}"
        path.write_bytes(content)
        report = RecordReport()
        with time_limit():
            records = list(read_records([path], report))
        wrong = {number for number, turns in enumerate(expected, start=1) if turns is None}
        right = [(number, turns) for number, turns in enumerate(expected, start=1) if turns is not None]
        assert [(record.source, list(record.turns)) for record in records] == [
            (f"{path} row {number}", turns) for number, turns in right
        ], (seed, report.problems)
        assert rows_named(report.problems, path) == wrong, (seed, report.problems)
        assert (report.ignored_fields, report.fatal) == (unused, False), seed
        if wrong:
            with pytest.raises(DataError) as caught:
                report.settle("fail")
            assert ("--on_bad_record skip" in str(caught.value)) == bool(right)
        met.add(ending.partition(".gz")[0].partition(".zst")[0])
    assert met >= {".json", ".jsonl", ".csv", ".parquet"}


@pytest.mark.parametrize("part", range(2))
def test_made_up_files_that_are_cut(tmp_path: Path, part: int) -> None:
    """What stands before the cut is right, or the file is refused by name; nothing is made up."""
    for seed in range(part, FILES // 2, 2):
        rng = random.Random(seed)
        ending, content, expected, _ = made_file(rng)
        path = tmp_path / f"{seed}{ending}"
        path.write_bytes(content[: rng.randrange(1, len(content))])
        report = RecordReport()
        with time_limit():
            records = list(read_records([path], report))
        assert all(problem.startswith(str(path)) for problem in report.problems)
        if ending.startswith((".csv", ".tsv")):
            # A table's last cell may be cut without anybody seeing it.
            records = records[:-1]
        for record in records:
            turns = expected[int(record.source.rpartition(" ")[2]) - 1]
            assert list(record.turns) == turns, (seed, ending)
        assert report.problems or ending.startswith((".csv", ".tsv")) or len(records) <= len(expected)
