"""The quick look at records at the head of a fine-tuning: what it finds, how long it looks, and where it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.runs import ROWS

import neuralchat
from neuralchat.data.given_records import GivenRecords
from neuralchat.data.record_source import RecordSource
from neuralchat.data_tools import quick_check
from neuralchat.data_tools.quick_check import quick_findings, told_findings_line

NONE = RecordSource()
MARKER = {"instruction": "Name a bird.", "input": "<noinput>", "output": "A crow."}


def written(path: Path, rows: list[Any]) -> RecordSource:
    path.write_text(json.dumps(rows))
    return RecordSource(files=(str(path),))


def names(found: dict[str, Any]) -> dict[str, list[int]]:
    return {check["check"]: [row["row"] for row in check["rows"]] for check in found["checks"]}


def test_debris_copies_structure_and_leakage_are_found_at_their_rows(tmp_path: Path) -> None:
    plain = [row for row in ROWS if "<|end|>" not in row["output"]]
    training = written(tmp_path / "a.json", [*plain, MARKER, plain[0], {"instruction": "And?", "output": None}])
    found = quick_findings(training, written(tmp_path / "b.json", [plain[1]]), 60)
    assert names(found) == {"structure": [10], "no_input_marker": [8], "leakage": [2], "exact_duplicate": [9]}
    assert (found["counts"], found["records"], found["is_whole"]) == ({"error": 3, "warning": 1, "note": 0}, 9, True)
    assert found["command"] == f"neuralchat data check {tmp_path / 'a.json'} --validation_file {tmp_path / 'b.json'}"
    assert told_findings_line(found).startswith("a quick look at 9 records found 3 errors, 1 warning; report.html")


def test_it_ends_in_time_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = written(tmp_path / "a.json", ROWS * 10)
    # A clock on which each record takes a second.
    monkeypatch.setattr(quick_check, "QUICK_ROWS", 1)
    ticks = iter(range(10_000))
    monkeypatch.setattr(quick_check.time, "thread_time", lambda: next(ticks))
    found = quick_findings(training, NONE, 20)
    assert (found["records"] <= 21, found["is_whole"]) == (True, False)
    assert told_findings_line(found).startswith("a quick look at the first ")


def test_records_of_a_program(tmp_path: Path) -> None:
    found = quick_findings(RecordSource(given=GivenRecords("train_records", [*ROWS, MARKER])), NONE, 60)
    assert names(found)["no_input_marker"] == [9]
    assert found["command"] == ""


def test_many_files_are_not_named() -> None:
    many = RecordSource(files=tuple(f"{number}.json" for number in range(9)))
    assert quick_check.check_command(many, NONE) == "neuralchat data check FILES"


def test_a_run_tells_it_in_one_line_and_in_its_report(llama_checkpoint: Path, tmp_path: Path, said: list[str]) -> None:
    run = neuralchat.finetune(
        model=llama_checkpoint, train_records=[*ROWS, MARKER], output_dir=tmp_path / "run", max_steps=1,
        report_samples=0, general_samples=0, keep_general=False, compile_kernels=False, save_strategy="no",
    )  # fmt: skip
    assert [line for line in said if line.startswith("a quick look")] == [
        "a quick look at 9 records found 2 errors; report.html lists some"
    ]
    findings = run.results.data_findings
    assert findings is not None
    assert findings["counts"] == {"error": 2, "warning": 0, "note": 0}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What a quick look at the records found" in page
    assert "train_records row 9: <bdi>&lt;noinput&gt;</bdi>" in page
