"""planning/earlier_runs.py: forecasts learn, and what is damaged or somebody else's teaches nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuralchat.planning.earlier_runs import (
    KEPT_LINES,
    Corrections,
    RunKind,
    corrections,
    file_of_runs,
    kept_lines,
    remember,
)

KIND, OTHER = RunKind.of(model="llama", threads=2), RunKind.of(threads=4, model="llama")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURALCHAT_HOME", str(tmp_path))


def took(kind: RunKind, seconds: float, memory_mb: float = 1000.0) -> None:
    remember(kind, forecast_seconds=100, seconds=seconds, forecast_memory_mb=1000, memory_mb=memory_mb)


def test_a_first_run_has_nothing_to_learn_from() -> None:
    assert corrections(KIND) == Corrections(1.0, 1.0, 0)


def test_time_by_the_median_and_memory_by_the_largest_of_the_last_runs_of_a_kind() -> None:
    for seconds, memory_mb in ((390, 1000), (120, 1050), (110, 900), (130, 1020), (300, 950), (115, 980)):
        took(KIND, seconds, memory_mb)
    took(OTHER, 80)
    # Of the last five: 120, 110, 130, 300, 115.
    assert corrections(KIND) == Corrections(1.2, 1.05, 5)
    # Less memory than was forecast lowers nothing: it would be the next run that does not fit.
    assert corrections(OTHER) == Corrections(0.8, 1.0, 1)


def test_a_short_run_teaches_nothing() -> None:
    took(KIND, 4.0)
    assert corrections(KIND).runs == 0


def test_far_out_is_bounded() -> None:
    took(KIND, 5000, 9000)
    assert corrections(KIND) == Corrections(4.0, 1.3, 1)


def test_damaged_lines_are_left_out() -> None:
    took(KIND, 150)
    path = file_of_runs()
    good = path.read_text()
    bad = ["{", "[]", '{"kind": 1}', json.dumps({**json.loads(good), "seconds": -1}), "\\ud800"]
    path.write_text("\n".join([*bad, good, good[: len(good) // 2]]))
    assert corrections(KIND) == Corrections(1.5, 1.0, 1)


def test_the_file_does_not_grow_for_ever() -> None:
    path = file_of_runs()
    took(KIND, 150)
    path.write_text(path.read_text() * 4000)
    took(KIND, 200)
    assert len(list(kept_lines())) == KEPT_LINES
    assert list(kept_lines())[-1]["seconds"] == 200
