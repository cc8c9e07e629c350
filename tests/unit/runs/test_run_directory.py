"""run_directory.py: where a run may be written, what is deleted for it, and what a finished run must hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from neuralchat.errors import RunDirectoryError
from neuralchat.runs.directory import (
    RUN_FILES,
    check_output_directory,
    checkpoints,
    file_sha256,
    prepare_output_directory,
    read_manifest,
    read_metrics,
    write_atomically,
)

MANIFEST = {"base_model": {"name": "m"}, "template": {"name": "alpaca"}, "adapter": {"method": "lora"}, "results": {}}


def names(path: Path) -> set[str]:
    return {found.name for found in path.iterdir()}


def check(path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    check_output_directory(path, overwrite=overwrite, resume=resume)


def test_write_atomically_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for text in ("old", "new é"):
        write_atomically(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new é"
    assert names(tmp_path) == {"a.txt"}


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "a.txt", "old")

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RunDirectoryError, match=r"--output_dir .*out is a file; give a directory"):
        check(tmp_path / "out")


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"out cannot be written: .*file is a file$"):
        check(tmp_path / "file" / "out")


def test_output_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, to whom everything is permitted.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(RunDirectoryError, match=f"cannot be written: no permission to write to {tmp_path}$"):
        check(tmp_path / "deep" / "out")


def test_output_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not empty; choose another, replace its run with --overwrite"):
        check(tmp_path)


def test_check_creates_and_deletes_nothing(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "neuralchat.json").write_text("{}")
    for path, options in ((tmp_path / "new" / "out", {}), (full, {"overwrite": True}), (full, {"resume": True})):
        check(path, **options)
    assert names(tmp_path) == {"full"}
    assert names(full) == {"neuralchat.json"}


def fill(path: Path) -> None:
    for name in (*RUN_FILES, "notes.txt", "checkpoint-notes"):
        (path / name).write_text("x")
    for name in ("checkpoint-10", "checkpoint-best", "data"):
        (path / name).mkdir()
        (path / name / "file").write_text("x")


def test_overwrite_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path)
    prepare_output_directory(tmp_path, overwrite=True)
    assert names(tmp_path) == {"notes.txt", "checkpoint-notes", "checkpoint-best", "data"}
    assert names(tmp_path / "data") == {"file"}


def test_without_overwrite_nothing_is_deleted(tmp_path: Path) -> None:
    fill(tmp_path)
    before = names(tmp_path)
    prepare_output_directory(tmp_path, overwrite=False)
    prepare_output_directory(tmp_path / "deep" / "out", overwrite=False)
    assert names(tmp_path) == before | {"deep"}
    assert (tmp_path / "deep" / "out").is_dir()


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"--output_dir .*out cannot be written: Not a directory$"):
        prepare_output_directory(tmp_path / "file" / "out", overwrite=False)


def test_checkpoints_are_sorted_by_step(tmp_path: Path) -> None:
    for name in ("checkpoint-100", "checkpoint-20", "checkpoint-3", "checkpoint-best", "checkpoint-"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-20", "checkpoint-100"]


def test_manifest_comes_back(tmp_path: Path) -> None:
    write_atomically(tmp_path / "neuralchat.json", json.dumps({**MANIFEST, "more": "é"}))
    assert read_manifest(tmp_path) == {**MANIFEST, "more": "é"}


def test_missing_run_directory(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"run directory .*none does not exist"):
        read_manifest(tmp_path / "none")


def test_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"is not a finished run: it has no neuralchat\.json\.$"):
        read_manifest(tmp_path)
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(RunDirectoryError, match=r"no neuralchat\.json\. Its training has not finished; its newest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"{", b'{"a": "\xe9"}'])
def test_damaged_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "neuralchat.json").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"neuralchat\.json is damaged: "):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "missing"),
    [({}, "base_model, template, adapter"), ({"base_model": 1, "adapter": 2}, "template")],
)
def test_manifest_that_lacks_something(tmp_path: Path, content: Any, missing: str) -> None:
    (tmp_path / "neuralchat.json").write_text(json.dumps(content))
    with pytest.raises(RunDirectoryError, match=f"neuralchat.json lacks {missing}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", ["null", "3", "[]"])
def test_manifest_that_is_no_mapping(tmp_path: Path, content: str) -> None:
    (tmp_path / "neuralchat.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=r"neuralchat\.json"):
        read_manifest(tmp_path)


def test_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2}\n')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.5}, {"step": 2}]


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # The test vector of FIPS 180-2.
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_names_that_only_look_like_a_step(tmp_path: Path) -> None:
    for name in ("checkpoint-²", "checkpoint-", "checkpoint-3x", "checkpoint-12"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-12"]


def test_bytes_of_a_path_that_are_no_text_survive(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", json.dumps({"path": "caf\udce9"}, ensure_ascii=False))
    assert json.loads((tmp_path / "file").read_text()) == {"path": "caf\udce9"}
