"""Verbs of `neuralchat data` that are ended: by their status it is seen, and nothing half-written is left."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from neuralchat.cli import main
from neuralchat.data_tools.checking import block_checks, check
from neuralchat.data_tools.moving import writing

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    rows = [{"instruction": f"What is {number} + 1?", "output": f"It is {number + 1}."} for number in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def status_of(words: list[str]) -> int:
    try:
        return main(["data", *words])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("verb", ["convert", "check"])
def test_nothing_is_left_of_what_was_not_finished(
    records: Path, verb: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(writing, "check_written", end)
    monkeypatch.setattr(check, "write_fixed", end)
    words = {
        "convert": ["--to", "messages", "--output"],
        "check": ["--report", str(records.parent / "r.json"), "--fix"],
    }
    # Whoever starts the tests may have it ignored, as nohup does.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = {each: signal.getsignal(each) for each in STATUS}
    assert status_of([verb, str(records), *words[verb], str(records.parent / "new.jsonl")]) == STATUS[number]
    assert [path.name for path in records.parent.iterdir()] == [records.name]
    assert {each: signal.getsignal(each) for each in STATUS} == before


def test_a_check_that_is_interrupted_says_so_in_one_line(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(block_checks, "record_text", end)
    assert status_of(["check", str(records)]) == 130
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "\ninterrupted\n")
