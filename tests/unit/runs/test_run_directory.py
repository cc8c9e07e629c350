"""run_directory.py: where a run may be written, what is deleted for it, and what a finished run must hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from neuralchat.errors import RunDirectoryError
from neuralchat.files import write_file
from neuralchat.runs.directory import (
    RUN_FILES,
    check_output_directory,
    checkpoints,
    json_text,
    prepare_output_directory,
    read_manifest,
    read_metrics,
)

MANIFEST = {"base_model": {"name": "m"}, "template": {"name": "alpaca"}, "adapter": {"method": "lora"}, "results": {}}


def names(path: Path) -> set[str]:
    return {found.name for found in path.iterdir()}


def check(path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    check_output_directory(path, overwrite=overwrite, resume=resume)


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
    with pytest.raises(RunDirectoryError, match=r"--output_dir .*out cannot be written: .*out: Not a directory$"):
        prepare_output_directory(tmp_path / "file" / "out", overwrite=False)


def test_checkpoints_are_sorted_by_step(tmp_path: Path) -> None:
    for name in ("checkpoint-100", "checkpoint-20", "checkpoint-3", "checkpoint-best", "checkpoint-"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-20", "checkpoint-100"]


def test_manifest_comes_back(tmp_path: Path) -> None:
    write_file(tmp_path / "neuralchat.json", json.dumps({**MANIFEST, "more": "é"}))
    assert read_manifest(tmp_path) == {**MANIFEST, "more": "é"}


def test_missing_run_directory(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"run directory .*none does not exist"):
        read_manifest(tmp_path / "none")
    (tmp_path / "faq-one").mkdir()
    with pytest.raises(RunDirectoryError, match=r"run directory .*faq-on does not exist; did you mean .*/faq-one\?$"):
        read_manifest(tmp_path / "faq-on")


def test_a_file_in_the_place_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        RunDirectoryError, match=r"notes\.txt is a file, not a run directory; give the --output_dir of a"
    ):
        read_manifest(tmp_path / "notes.txt")
    for name in ("neuralchat.json", "report.html"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(RunDirectoryError, match=rf"report\.html is a file, not .*; that of this file is {tmp_path}$"):
        read_manifest(tmp_path / "report.html")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(RunDirectoryError, match=r"link is a link, not a run directory"):
        read_manifest(tmp_path / "link")


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


def test_names_that_only_look_like_a_step(tmp_path: Path) -> None:
    for name in ("checkpoint-²", "checkpoint-", "checkpoint-3x", "checkpoint-12"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-12"]


def test_bytes_of_a_path_that_are_no_text_survive(tmp_path: Path) -> None:
    write_file(tmp_path / "file", json.dumps({"path": "caf\udce9"}, ensure_ascii=False))
    assert json.loads((tmp_path / "file").read_text()) == {"path": "caf\udce9"}


MISPLACED = {
    "README.md": "README.md is a directory, not a file",
    "report.html": "report.html is a directory, not a file",
    ".neuralchat.lock": ".neuralchat.lock is a directory, not a file",
}


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
def test_directories_in_the_place_of_files_are_refused_together(tmp_path: Path, how: dict[str, bool]) -> None:
    for name in MISPLACED:
        (tmp_path / name).mkdir()
    (tmp_path / "notes").mkdir()
    with pytest.raises(RunDirectoryError, match="cannot be written; move away what is in the way") as caught:
        check(tmp_path, **how)
    assert all(text in str(caught.value) for text in MISPLACED.values())
    assert "notes" not in str(caught.value)


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
def test_what_is_called_a_checkpoint_and_is_none_is_refused(tmp_path: Path, how: dict[str, bool]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "run" / "checkpoint-4").symlink_to(tmp_path / "mine")
    (tmp_path / "run" / "checkpoint-6").symlink_to(tmp_path / "nothing")
    (tmp_path / "run" / "checkpoint-8").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"checkpoint-4 is a link, not a directory") as caught:
        check(tmp_path / "run", **how)
    assert "checkpoint-6 is a link, not a directory" in str(caught.value)
    assert "checkpoint-8 is a device, not a directory" not in str(caught.value)
    assert "checkpoint-8 is a file, not a directory" in str(caught.value)
    assert checkpoints(tmp_path / "run") == []


def test_links_to_the_victims_files_are_deleted_as_links(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run").mkdir()
    for name in ("README.md", "neuralchat.json", "metrics.jsonl"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "victim")
    check(tmp_path / "run", overwrite=True)
    prepare_output_directory(tmp_path / "run", overwrite=True)
    assert names(tmp_path / "run") == set()
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("name", ["neuralchat.json", "metrics.jsonl"])
def test_what_never_ends_is_refused(tmp_path: Path, name: str) -> None:
    read = read_manifest if name == "neuralchat.json" else read_metrics
    os.mkfifo(tmp_path / name)
    with pytest.raises(RunDirectoryError, match="cannot be read: is a pipe, not a file"):
        read(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(RunDirectoryError, match="cannot be read: is a device, not a file"):
        read(tmp_path)


def test_a_name_that_no_file_system_takes(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be used: File name too long"):
        check(tmp_path / ("a" * 300))


def test_json_that_is_kept_holds_nothing_that_a_terminal_obeys() -> None:
    value = {"answer": "\x1b[2J\x9b2J\x7f\u202e\u2028 é 你"}
    text = json_text(value)
    assert json.loads(text) == value
    assert not set("\x1b\x9b\x7f\u202e\u2028") & set(text)
    assert "é 你" in text
