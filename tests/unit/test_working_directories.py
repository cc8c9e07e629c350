"""working_directories.py: files come to their places together or not at all; what a killed process left is found."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.strangers.victims import VICTIM, names_in

from neuralchat import working_directories
from neuralchat.working_directories import place_files, sweep_abandoned, undo_abandoned, working_directory_in


@pytest.mark.parametrize("years", [-30, 0, 30])
def test_a_killed_process_leaves_what_the_next_one_sweeps(place: Path, years: int) -> None:
    """Whatever the clock says of its age: clocks jump."""
    code = (
        "import sys, time; from pathlib import Path; from neuralchat.working_directories import working_directory_in\n"
        "with working_directory_in(Path(sys.argv[1]), '.work-') as work:\n"
        "    (work / 'file').write_text('x'); print('there', flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"there\n"
    (work,) = place.iterdir()
    age = years * 365 * 86_400
    os.utime(work, (work.stat().st_mtime + age, work.stat().st_mtime + age))
    # It is at work.
    assert sweep_abandoned(place, ".work-") == []
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert len(names_in(place)) == 1
    assert len(sweep_abandoned(place, ".work-")) == 1
    assert names_in(place) == []


def test_a_working_directory_is_private_and_goes(place: Path) -> None:
    with working_directory_in(place, ".work-") as work:
        assert work.stat().st_mode & 0o777 == 0o700
        (work / "file").write_text("x")
    assert names_in(place) == []


def test_a_working_directory_that_is_swept_before_it_is_locked_is_made_anew(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process, in the moment between; and one that is being swept just now is left to it."""
    true_flock, calls = fcntl.flock, 0

    def flock(descriptor: int, how: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise BlockingIOError
        if calls == 2:
            for path in place.iterdir():
                shutil.rmtree(path)
        true_flock(descriptor, how)

    monkeypatch.setattr(working_directories.fcntl, "flock", flock)
    with working_directory_in(place, ".work-") as work:
        assert work.is_dir()
        assert sweep_abandoned(place, ".work-") == []
        assert work.is_dir()
    assert calls >= 3


def left_by_a_killed_process(place: Path, placed: list[str], inside: list[str]) -> Path:
    work = place / ".work-7-abcd"
    work.mkdir()
    for path in (*(place / name for name in placed), *(work / name for name in inside)):
        path.write_text("x")
    (work / ".placed.json").write_text(json.dumps(["a", "b", *placed, *inside]))
    return work


@pytest.mark.parametrize("placed", [[], ["one"], ["one", "two"]])
def test_what_a_killed_process_had_begun_to_place_is_undone(place: Path, placed: list[str]) -> None:
    left_by_a_killed_process(place, placed, ["last"])
    undo_abandoned(place, ".work-")
    assert names_in(place) == []


def test_what_was_placed_whole_or_is_of_others_stays(place: Path) -> None:
    left_by_a_killed_process(place, ["one", "two"], [])
    undo_abandoned(place, ".work-")
    assert {"one", "two"} <= set(names_in(place))
    (place / ".work-7-abcd" / "last").write_text("x")
    (place / ".work-7-abcd" / ".placed.json").write_text(json.dumps(["one", "two", "last"]))
    (place / "notes").write_text("mine")
    undo_abandoned(place, ".work-")
    assert {"one", "two", "notes", ".work-7-abcd"} == set(names_in(place))


def test_what_a_living_process_places_is_not_undone(place: Path) -> None:
    with working_directory_in(place, ".work-") as work:
        (place / "one").write_text("x")
        (work / "last").write_text("x")
        (work / ".placed.json").write_text(json.dumps(["one", "last"]))
        undo_abandoned(place, ".work-")
        assert names_in(place) == [work.name, "one"]


@pytest.mark.parametrize(
    "content", ["", "{", "null", "7", '["../victim", "last"]', '["..", "", ".", "last"]', '["a\\u0000b", "last"]']
)
def test_word_of_what_was_placed_leads_nowhere_else(place: Path, victim: Path, content: str) -> None:
    work = left_by_a_killed_process(place, [], ["last"])
    (work / ".placed.json").write_text(content)
    undo_abandoned(place, ".work-")
    assert names_in(place) == []
    assert victim.read_text() == VICTIM


def test_placing_that_fails_leaves_nothing(place: Path) -> None:
    with working_directory_in(place, ".work-") as work:
        for name in ("one", "three"):
            (work / name).write_text("x")
        with pytest.raises(FileNotFoundError):
            place_files(work, place, ["one", "two", "three"])
        assert names_in(place) == [work.name]
    assert names_in(place) == []
