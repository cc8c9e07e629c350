"""Record files of every kind, damaged: an error that names the file, or the examples an independent reading gives.

Each case goes through all that a run does before the model is loaded: reading, checking, rendering, tokenizing.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fuzzing import cases, damaged, time_limit
from support.small_models import make_tokenizer

from neuralchat.config.arguments import DataArguments
from neuralchat.data.prepared_data import prepare
from neuralchat.data.record_files.packed import FOREIGN_BEGINNINGS
from neuralchat.errors import NeuralChatError

TOKENIZER = make_tokenizer()
# Texts that a careless reader, renderer or tokenizer would take for something else.
NASTY = [
    "<|end|>", "<|start|>assistant\n", "</s>", "\0", "\x1b[31m", "\u202e", "\ufeff", "\u2028", "\r\n", "\r", "\n", "🙂",
    "e\u0301", "\ue0000\ue001", "{{ messages }}", "### Response:", "\x85", ", ", '"', "\\", "\\n", " ", "a", "\ud83d",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(NASTY) | st.text(max_size=3), max_size=4).map("".join)
PLAIN = st.sampled_from(["Name a fruit.", "yes", "An apple."])
CONTENTS = PLAIN | PLAIN | TEXTS
ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.lists(PLAIN, max_size=2) | st.just({"a": [{}]})
FACTS = st.lists(CONTENTS | st.lists(CONTENTS, max_size=2), max_size=2) | ODD


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 9).flatmap(lambda draw: good if draw else ODD)


@st.composite
def conversations(draw: st.DrawFn, key: str, role: str, text: str) -> dict[str, Any]:
    speakers = ["user", "assistant"] * draw(st.integers(1, 2))
    if draw(st.booleans()):
        speakers = ["system", *speakers]
    if not draw(st.integers(0, 7)):
        speakers = draw(st.lists(st.sampled_from(["user", "gpt", "human", "narrator"]), max_size=3))
    return {key: [{role: speaker, text: draw(mostly(CONTENTS))} for speaker in speakers]}


ALPACA = st.fixed_dictionaries(
    {"instruction": mostly(CONTENTS), "output": mostly(CONTENTS)},
    optional={"input": mostly(CONTENTS), "facts": FACTS, "id": st.integers(), "\ufeffx\n": PLAIN},
)
MESSAGES = conversations("messages", "role", "content")
SHAREGPT = conversations("conversations", "from", "value")
ROWS = st.one_of(*(st.lists(kind, min_size=1, max_size=4) for kind in (ALPACA, MESSAGES, SHAREGPT))) | st.lists(
    ALPACA | MESSAGES | ODD, max_size=3
)


ENDINGS = (".json", ".jsonl", ".csv", ".parquet")


@st.composite
def record_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """(ending, content) of a record file that may be damaged."""
    ending = draw(st.sampled_from(ENDINGS))
    rows = draw(st.lists(ALPACA, min_size=1, max_size=3) | ROWS if ending == ".csv" else ROWS)
    if ending == ".json":
        content = draw(json_texts(rows, indent=draw(st.sampled_from([None, 1]))))
    elif ending == ".jsonl":
        content = b"\n".join(draw(json_texts(row)) for row in rows)
    elif ending == ".csv":
        content = csv_content([row for row in rows if isinstance(row, dict)])
    else:
        content = parquet_content(rows)
    if draw(st.booleans()):
        content = draw(damaged(content))
    if ending != ".parquet" and not draw(st.integers(0, 15)):
        text = content.decode("utf-8", "replace")
        content = text.encode(draw(st.sampled_from(["utf-16", "utf-16-le", "utf-32", "latin-1"])), "replace")
    return ending, content


@st.composite
def json_texts(draw: st.DrawFn, value: Any, indent: int | None = None) -> bytes:
    ascii_only = draw(st.booleans())
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")


def csv_content(rows: list[dict[str, Any]]) -> bytes:
    names = sorted({name for row in rows for name in row}) or ["instruction", "output"]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, names)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode("utf-8", "surrogatepass")


def parquet_content(rows: list[Any]) -> bytes:
    sink = io.BytesIO()
    try:
        table = pa.Table.from_pylist([row for row in rows if isinstance(row, dict)])
        pq.write_table(table, sink)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        pq.write_table(pa.table({"instruction": ["Name a fruit."], "output": ["An apple."]}), sink)
    return sink.getvalue()


class UnreadableError(Exception):
    """The independent reading cannot read the file to its end."""


class UnsureError(Exception):
    """The independent reading does not know what the file says."""


class Twice(dict[str, Any]):
    """An object with a key given twice."""


def objects(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs) if len({key for key, _ in pairs}) == len(pairs) else Twice(pairs)


def has_twice(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Twice) or any(map(has_twice, inner))


BAD_ROW = object()


def independent_rows(ending: str, content: bytes) -> list[Any]:
    """All rows read at once with json, csv and pyarrow; BAD_ROW where one cannot be read."""
    if ending == ".parquet":
        try:
            return pq.read_table(io.BytesIO(content)).to_pylist()
        except Exception as error:
            raise UnreadableError from error
    if content.startswith(tuple(mark for mark, _ in FOREIGN_BEGINNINGS)) or b"\0" in content[:2]:
        raise UnreadableError
    try:
        text = content.decode("utf-8-sig")
        return csv_rows(text) if ending == ".csv" else json_rows(text, ending)
    except (ValueError, csv.Error) as error:
        raise UnreadableError from error


def csv_rows(text: str) -> list[Any]:
    if any(separator in text.partition("\n")[0] for separator in ";|\t"):
        raise UnsureError
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = [BAD_ROW if None in row else row for row in reader]
    named = [name for name in reader.fieldnames or [] if name]
    if len(set(named)) < len(named):
        raise UnreadableError
    return rows


def json_rows(text: str, ending: str) -> list[Any]:
    begun = text.lstrip(" \t\r\n")
    first, _, others = begun.partition("\n")
    spread = ends_too_early(first.rstrip())
    if begun[:1] in ("[", "") and (ending == ".json" or spread):
        return [BAD_ROW if has_twice(row) else row for row in json.loads(text, object_pairs_hook=objects)]
    if begun[:1] == "{" and spread:
        return objects_one_after_another(begun)
    if begun[:1] == "{" and not others.strip() and holds_records(line_row(first)):
        raise UnsureError
    return [line_row(line) for line in text.split("\n") if line.strip()]


def ends_too_early(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line) and line[-1:] in ("{", "[", ",", ":")
    except ValueError:
        return False
    return False


def holds_records(value: Any) -> bool:
    lists = value.values() if isinstance(value, dict) else ()
    return any(isinstance(held, list) and any(isinstance(inner, dict) for inner in held) for held in lists)


def objects_one_after_another(text: str) -> list[Any]:
    decoder, rows = json.JSONDecoder(object_pairs_hook=objects), []
    while text := text.lstrip(" \t\r\n"):
        value, end = decoder.raw_decode(text)
        rows.append(BAD_ROW if has_twice(value) else value)
        text = text[end:]
    if len(rows) == 1 and holds_records(rows[0]):
        raise UnsureError
    return rows


def line_row(line: str) -> Any:
    try:
        value = json.loads(line, object_pairs_hook=objects)
    except ValueError:
        return BAD_ROW
    return BAD_ROW if has_twice(value) else value


def is_text(value: Any, *, empty: bool = False) -> bool:
    return isinstance(value, str) and bool(empty or value.strip()) and not any(0xD800 <= ord(c) < 0xE000 for c in value)


def is_absent(value: Any) -> bool:
    return value is None or value == "" or value != value


def joined(content: Any) -> Any:
    """The text of a list of texts."""
    parts = isinstance(content, list) and all(isinstance(part, str) for part in content)
    return "".join(content) if parts else content


def is_empty_system(turn: dict[str, Any], role: str, text: str) -> bool:
    """Many data sets have a system turn that says nothing."""
    return turn.get(role) == "system" and (is_absent(turn.get(text)) or is_text(joined(turn.get(text)), empty=True))


def answers_of(value: Any, kind: str) -> list[str] | None:
    """The assistant's texts of a good row, else None."""
    facts = [] if is_absent(value.get("facts")) else value["facts"]
    if isinstance(facts, str):
        # Tables hold it as JSON.
        try:
            facts = json.loads(facts)
        except ValueError:
            return None
    if not isinstance(facts, list):
        return None
    alternatives = [fact if isinstance(fact, list) else [fact] for fact in facts]
    if not all(choices and all(text and is_text(text, empty=True) for text in choices) for choices in alternatives):
        return None
    for key, role, text in (("messages", "role", "content"), ("conversations", "from", "value")):
        if key == kind:
            turns = value[key]
            if not isinstance(turns, list) or not all(
                isinstance(t, dict) and (is_text(joined(t.get(text))) or is_empty_system(t, role, text)) for t in turns
            ):
                return None
            names = {"gpt": "assistant", "human": "user"}
            roles = [names.get(turn.get(role), turn.get(role)) for turn in turns]
            spoken = roles[1:] if roles[:1] == ["system"] else roles
            if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
                return None
            return [joined(turn[text]) for turn, said in zip(turns, roles, strict=True) if said == "assistant"]
    good = is_text(value.get("instruction")) and is_text(value.get("output"))
    context = value.get("input")
    return [value["output"]] if good and (is_absent(context) or is_text(context, empty=True)) else None


KINDS = {"messages": ["messages"], "conversations": ["conversations"], "alpaca": ["instruction", "output"]}


def kind_of(value: Any, first: str | None) -> str | None:
    """`first`: the kind of the file's first row, which the others keep if they can."""
    if not isinstance(value, dict):
        return None
    if first and any(name in value for name in KINDS[first]):
        return first
    full = {name for name, held in value.items() if not is_absent(held)}
    for names in (full, set(value)):
        for kind in KINDS:
            if names & set(KINDS[kind]):
                return kind
    return None


def expected_answers(rows: list[Any], on_bad_record: str) -> list[list[str]] | None:
    """The answers of every example, or None where the file must be refused."""
    first: str | None = None
    kept = []
    for row in rows:
        kind = kind_of(row, first)
        first = first or kind
        answers = answers_of(row, kind) if kind and kind == first else None
        kept += [answers] if answers is not None else []
    return None if not kept or (len(kept) < len(rows) and on_bad_record == "fail") else kept


def check_file(ending: str, content: bytes, on_bad_record: str, block: Path) -> str | None:
    """Run one file through; returns the message it was refused with, or None."""
    path = block / f"records{ending}"
    path.write_bytes(content)
    data = DataArguments(
        train_file=[str(path)], on_bad_record=on_bad_record, max_seq_length=100_000,
        dataset_cache_directory=str(block / "cache"),
    )  # fmt: skip
    expected: Any
    try:
        expected = expected_answers(independent_rows(ending, content), on_bad_record)
    except UnreadableError:
        expected = None
    except UnsureError:
        expected = "unsure"
    prepared, message = None, ""
    with time_limit():
        try:
            prepared = prepare(data, TOKENIZER)
        except NeuralChatError as error:
            message = str(error)
    if prepared is None:
        assert expected in (None, "unsure"), (message, expected)
        assert path.name in message
        assert len(message) < 20_000
        # A message goes to a terminal.
        assert all(line.isprintable() for line in message.split("\n")), message
        return message
    assert prepared.train is not None
    if expected == "unsure":
        return None
    if ending == ".parquet" and expected is None:
        # The library may read rows one batch at a time that it does not read at once.
        return None
    assert [supervised(example) for example in prepared.train] == [
        "".join(answer + "<|end|>" for answer in answers) for answers in expected or []
    ]
    return None


def supervised(example: Any) -> str:
    return TOKENIZER.decode(example.input_ids[example.supervised], clean_up_tokenization_spaces=False)


def test_damaged_files() -> None:
    met: Counter[tuple[str, bool]] = Counter()

    @settings(**cases("NEURALCHAT_FUZZ_FILES", 500))
    @given(file=record_files(), on_bad_record=st.sampled_from(["fail", "skip"]))
    def attempt(file: tuple[str, bytes], on_bad_record: str) -> None:
        with tempfile.TemporaryDirectory() as directory:
            refused = check_file(*file, on_bad_record, Path(directory)) is not None
            met[file[0], refused] += 1

    attempt()
    # Files of each kind were read, and files of each kind were refused.
    assert set(met) == {(ending, refused) for ending in ENDINGS for refused in (True, False)}
