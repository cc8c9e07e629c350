"""runs/output_files.py: no file that a command writes costs what was there, whatever name it is given."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from neuralchat import files
from neuralchat.errors import ArgumentsError, NeuralChatError
from neuralchat.runs import output_files
from neuralchat.runs.output_files import (
    ReportKind,
    check_output_files,
    file_problems,
    json_report,
    kind_of_report,
    page_report,
    report_problems,
    write_reports,
)

JSON, PAGE = ReportKind.JSON, ReportKind.PAGE

RUN = Path(__file__).parents[2] / "fixtures" / "run_of_0_1" / "run"


def full_disk(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_input_is_never_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own name, from another directory, or as another name of the same file."""
    questions = tmp_path / "mix.json"
    questions.write_text("[]")
    os.link(questions, tmp_path / "same.json")
    (tmp_path / "way").symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for name in (str(questions), "mix.json", "./same.json", "way/mix.json"):
        (told,) = file_problems("--report", name, [("--questions", "mix.json")], replaces=ReportKind.JSON)
        assert told == f"--report {name} is --questions mix.json itself, which is read; name another file"


@pytest.mark.parametrize("inside", ["adapter_config.json", "new.json", "deeper/new.json"])
def test_a_run_takes_no_file(tmp_path: Path, inside: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    (run / "deeper").mkdir()
    (told,) = file_problems("--output", str(run / inside), [], replaces=ReportKind.JSON)
    assert f"lies in {run}, which is a run or a model" in told
    (told,) = file_problems("--output", str(run / inside), [("the run", run)], replaces=ReportKind.JSON)
    assert f"lies in the run {run}, which is read; name a place outside of it" in told


def test_a_model_is_known_by_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert not file_problems("--output", str(tmp_path / "a.json"))
    (tmp_path / "model.safetensors").write_text("")
    assert "holds its own files alone" in file_problems("--output", str(tmp_path / "a.json"))[0]
    # As a home or a project may hold one, with much else below.
    (tmp_path / "reports").mkdir()
    assert not file_problems("--output", str(tmp_path / "reports" / "a.json"))


def test_lines_are_added_to_a_file_whose_directory_takes_no_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that an administrator has made for a service."""
    monkeypatch.setattr(output_files, "try_writing", full_disk)
    (tmp_path / "thumbs.jsonl").touch()
    assert not file_problems("--feedback", str(tmp_path / "thumbs.jsonl"), appends=True)
    assert file_problems("--feedback", str(tmp_path / "new.jsonl"), appends=True)
    assert file_problems("--output", str(tmp_path / "thumbs.jsonl"), goes_on=True)


def test_only_a_report_of_this_program_is_replaced(tmp_path: Path) -> None:
    notes, report, page = tmp_path / "notes.txt", tmp_path / "r.json", tmp_path / "p.html"
    notes.write_text("a year's work")
    report.write_text(json_report({"detect": 1}))
    page.write_text(page_report("<html>\n</html>\n"))
    (tmp_path / "empty").touch()
    assert kind_of_report(report) is JSON
    assert kind_of_report(page) is PAGE
    assert kind_of_report(notes) is None
    assert not report_problems(
        [("--output", str(report), JSON), ("--report", str(page), PAGE), ("--page", str(tmp_path / "empty"), PAGE)]
    )
    (told,) = report_problems([("--report", str(notes), PAGE)])
    assert "notes.txt exists already and is no report of this program" in told
    # One of another kind is not replaced: the name would no longer say what the file is.
    assert report_problems([("--output", str(page), JSON), ("--report", str(report), PAGE)]) == [
        f"--output {page} exists already and is a page of this program; name a new file, only a JSON report of this "
        "program is replaced by a newer one",
        f"--report {report} exists already and is a JSON report of this program; name a new file, only a page of this "
        "program is replaced by a newer one",
    ]
    # Records are never replaced, whoever wrote them.
    assert "exists already; name a new file, nothing is overwritten" in file_problems("--output", str(report))[0]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """A device would be replaced by a file of its name."""
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert file_problems("--report", "/dev/null") == ["--report /dev/null is a device, not a file; name a new file"]
    assert "is a link, not a file" in file_problems("--report", str(tmp_path / "link"))[0]
    assert "cannot be written: File name too long" in file_problems("--report", str(tmp_path / ("a" * 300)))[0]


def test_all_problems_are_told_together(tmp_path: Path) -> None:
    name = str(tmp_path / "a.json")
    with pytest.raises(ArgumentsError) as refused:
        check_output_files(
            [("--output", name, JSON), ("--report", name, PAGE), ("--page", str(tmp_path), PAGE), ("--fix", None, PAGE)]
        )
    assert refused.value.problems == (
        f"--output and --report name one file, {name}; give each its own",
        f"--page {tmp_path} is a directory; name a file",
    )


def test_a_full_disk_is_found_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "fsync", full_disk)
    (told,) = file_problems("--report", str(tmp_path / "a.html"))
    assert told == f"--report {tmp_path / 'a.html'} cannot be written: No space left on device"
    assert not list(tmp_path.iterdir())


def test_each_report_is_tried_and_what_failed_is_named(tmp_path: Path) -> None:
    first, second = tmp_path / "gone" / "a.json", tmp_path / "b.html"
    with pytest.raises(NeuralChatError, match=f"^--output {first} cannot be written: No such file or directory$"):
        write_reports([("--output", str(first), lambda: "a"), ("--report", str(second), lambda: "b")])
    assert second.read_text() == "b"
