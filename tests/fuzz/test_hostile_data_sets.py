"""Data sets of strangers, as a hub gives them: only their own files are read, as text, and what is wrong is told."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from support.forks import run_forked
from support.runs import ROWS

from neuralchat.data.hub_data_set import HubDataSet
from neuralchat.data.record_files import MAX_ROW_BYTES, SyntaxProblem
from neuralchat.errors import DataError
from neuralchat.runs.directory import read_manifest

SECRET = "the victim's own text"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data set in `set`; beside it a file that is none of its own. Nothing may be connected to."""
    (tmp_path / "set").mkdir()
    (tmp_path / "victim.jsonl").write_text(json.dumps({"instruction": SECRET, "output": SECRET}))

    true_connect, connected = socket.socket.connect, []

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            connected.append(address)
            raise OSError("no network here")
        true_connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert connected == []


def loaded(place: Path) -> HubDataSet:
    return HubDataSet(str(place / "set"), None, str(place / "cache"))


def card(place: Path, data_files: str) -> None:
    text = f"---\nconfigs:\n- config_name: default\n  data_files: {json.dumps(data_files)}\n---\n"
    (place / "set" / "README.md").write_text(text)


def jsonl(place: Path, rows: list[Any], name: str = "train.jsonl") -> Path:
    path = place / "set" / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(place: Path, table: pa.Table, features: datasets.Features | None = None) -> None:
    if features is not None:
        table = table.replace_schema_metadata(features.arrow_schema.metadata)
    pyarrow.parquet.write_table(table, place / "set" / "train.parquet")


def test_it_is_read(place: Path) -> None:
    jsonl(place, ROWS)
    rows = list(loaded(place).raw_rows())
    assert [(row.number, row.value["output"]) for row in rows] == [(i, row["output"]) for i, row in enumerate(ROWS, 1)]


def test_values_of_several_types_are_read_as_written(place: Path) -> None:
    """The library keeps such columns as text in JSON, and gives back what was written."""
    calls = [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": "none"}]
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "call": call}]}
            for call in calls]  # fmt: skip
    jsonl(place, rows)
    found = [row.value["messages"][1]["call"] for row in loaded(place).raw_rows()]
    assert [call["name"] for call in found] == ["f", "g"]
    assert [call["arguments"] for call in found] == [{"a": 1}, "none"]


@pytest.mark.parametrize("where", ["relative", "absolute", "address"])
def test_files_that_are_not_its_own_are_not_read(place: Path, where: str) -> None:
    jsonl(place, ROWS)
    victim = {"relative": "../victim.jsonl", "absolute": str(place / "victim.jsonl")}
    card(place, victim.get(where, "http://127.0.0.1:9/x.jsonl"))
    with pytest.raises(DataError, match=r"is none of its files|cannot be loaded") as caught:
        list(loaded(place).raw_rows())
    assert SECRET not in str(caught.value)
    written = [path.read_bytes() for path in (place / "cache").rglob("*") if path.is_file()]
    assert not [content for content in written if SECRET.encode() in content]


@pytest.mark.parametrize("name", ["train.tar", "train.h5", "train.xml", "train.png", "train.pdf", "train.txt.lance"])
def test_formats_that_hold_no_text_are_refused(place: Path, name: str) -> None:
    (place / "set" / name).write_bytes(b"\x89PNG\r\n\x1a\n" * 9)
    with pytest.raises(DataError, match=r"is kept as \w+; records can be read from arrow, csv|cannot be loaded"):
        list(loaded(place).raw_rows())


def test_code_of_a_data_set_is_not_run(place: Path) -> None:
    jsonl(place, ROWS)
    for name in ("train.py", "__init__.py", "set.py"):
        (place / "set" / name).write_text(f"open({str(place / 'mark')!r}, 'w')\n")
        if name != "set.py":
            assert len(list(loaded(place).raw_rows())) == len(ROWS)
    for name in ("set", "set/set.py"):
        with pytest.raises(DataError, match=r"cannot be loaded: Dataset scripts are no longer supported"):
            list(HubDataSet(str(place / name)).raw_rows())
    assert not (place / "mark").exists()


def test_what_would_be_fetched_to_be_decoded_is_left_out(place: Path, said: list[str]) -> None:
    """An image or a sound may be an address, or any file of this machine."""
    text = datasets.Value("string")
    kinds = {"instruction": text, "output": text, "image": datasets.Image(), "sounds": datasets.List(datasets.Audio())}
    row = {
        "instruction": "a", "output": "b", "image": {"bytes": None, "path": "http://127.0.0.1:9/x.png"},
        "sounds": [{"bytes": None, "path": str(place / "victim.jsonl")}],
    }  # fmt: skip
    parquet(place, pa.Table.from_pylist([row], schema=datasets.Features(kinds).arrow_schema))
    assert [row.value for row in loaded(place).raw_rows()] == [{"instruction": "a", "output": "b"}]
    assert [text for text in said if "columns that hold no text are not read: image, sounds" in text]


def test_a_row_that_is_too_large(place: Path) -> None:
    rows = [{"instruction": "a", "output": size * "b"} for size in (1, MAX_ROW_BYTES, 2)]
    parquet(place, pa.Table.from_pylist(rows))
    first, second, third = loaded(place).raw_rows()
    assert isinstance(second, SyntaxProblem)
    assert "is larger than 8 MiB" in second.what
    assert (first.number, third.number, third.value["output"]) == (1, 3, "bb")


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)


ODD_SETS: dict[str, Callable[[Path], Any]] = {
    "empty": lambda place: None,
    "empty file": lambda place: jsonl(place, []),
    "lines that are no JSON": lambda place: (place / "set" / "train.jsonl").write_text("{]\n" * 3),
    "deep": lambda place: (place / "set" / "train.jsonl").write_text("[" * 100_000),
    "rows that are no objects": lambda place: jsonl(place, [1, "a", None]),
    "rows of other fields": lambda place: jsonl(place, [{"a": 1}, {"b": [2]}, {"a": "x"}]),
    "no split train": lambda place: jsonl(place, ROWS, "test.jsonl"),
    "card that is no YAML": lambda place: [jsonl(place, ROWS), card(place, "\x07: [")],
    "card of another kind": lambda place: [
        jsonl(place, ROWS), (place / "set" / "README.md").write_text("---\nconfigs: 7\ndataset_info: [x]\n---\n")
    ],
    "cut parquet": lambda place: [
        parquet(place, pa.Table.from_pylist(ROWS)), damage_cut(place / "set" / "train.parquet")
    ],
    "damaged parquet": lambda place: [
        parquet(place, pa.Table.from_pylist(ROWS)), damage_bytes(place / "set" / "train.parquet")
    ],
    "lying features": lambda place: parquet(
        place, pa.table({"instruction": ["a"]}), datasets.Features({"other": datasets.ClassLabel(names=["\x1b[2J"])})
    ),
    "csv with a NUL": lambda place: (place / "set" / "train.csv").write_bytes(b"instruction,output\n\0,\"\n"),
    "name with an escape": lambda place: jsonl(place, ROWS, "a\x1b[2J.jsonl"),
}  # fmt: skip


def test_data_sets_of_any_content(place: Path, llama_checkpoint: Path) -> None:
    """Refused or trained on; never a traceback, nor a byte that a terminal obeys."""

    def prepare() -> None:
        from neuralchat import cli

        for name, make in ODD_SETS.items():
            shutil.rmtree(place / "set")
            (place / "set").mkdir()
            make(place)
            words = ["finetune", "--model_name_or_path", str(llama_checkpoint), "--dataset_name", "set", "--output_dir"]
            flags = ["--max_steps", "1", "--report_samples", "0", "--save_strategy", "no", "--cache_dir", "cache"]
            status = cli.main([*words, f"run of {name}", *flags])
            assert status in (0, 2), name
            print(f"{name}: {status}", flush=True)

    assert run_forked(["show", "nothing"], place, place / "log", prepare) == 2
    said = (place / "log").read_bytes()
    assert b"Traceback" not in said
    assert b"\x1b" not in said
    statuses = [line for line in said.decode().splitlines() if line.partition(": ")[0] in ODD_SETS]
    assert len(statuses) == len(ODD_SETS)
    assert "name with an escape: 0" in statuses
    assert "no split train: 2" in statuses


def test_a_data_set_that_has_changed_is_tokenized_anew(place: Path, llama_checkpoint: Path) -> None:
    """Under the same name; what was kept of the old one is not trained on."""
    words = ["finetune", "--model_name_or_path", str(llama_checkpoint), "--dataset_name", "set", "--cache_dir", "cache"]
    flags = ["--max_steps", "1", "--report_samples", "0", "--save_strategy", "no", "--output_dir"]
    fingerprints = []
    for number, rows in enumerate([ROWS, ROWS[:5], ROWS]):
        jsonl(place, rows)
        assert run_forked([*words, *flags, f"run-{number}"], place, place / "log") == 0, (place / "log").read_text()
        manifest = read_manifest(place / f"run-{number}")
        assert manifest["data"]["counts"]["train"]["examples"] == len(rows)
        fingerprints.append(manifest["identity"]["data"])
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]
