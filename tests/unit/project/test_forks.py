"""The forked commands of the tests behave as ones started by a shell."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forks import PRELOADED, Streams, end_of, run_captured, run_fresh, start


def in_a_fork(directory: Path, work: Callable[[], int], timeout: float | None = None) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    streams = Streams(directory / "out", directory / "err")
    status = end_of(start(work, directory, streams), timeout)
    return status, streams.stdout.read_text(), streams.stderr.read_text()


def test_everything_is_loaded_before_the_fork(tmp_path: Path) -> None:
    """In the server's process, that is, whose list of modules a child has as it begins."""

    def print_modules() -> int:
        import support.forks

        print("\n".join(support.forks.MODULES_OF_THE_SERVER))
        return 0

    status, out, _ = in_a_fork(tmp_path, print_modules)
    assert status == 0
    assert set(PRELOADED) <= set(out.split("\n"))


def test_streams_are_apart_and_a_text_as_status_is_told(tmp_path: Path) -> None:
    def leave() -> int:
        print("an answer")
        sys.exit("a reason")

    assert in_a_fork(tmp_path, leave) == (1, "an answer\n", "a reason\n")


def test_an_error_is_a_traceback_and_status_1(tmp_path: Path) -> None:
    status, out, err = in_a_fork(tmp_path, lambda: 1 // 0)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == "ZeroDivisionError: integer division or modulo by zero"


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    def hang() -> int:
        import time

        time.sleep(600)
        return 0

    with pytest.raises(TimeoutError, match="did not end within"):
        in_a_fork(tmp_path, hang, timeout=0.1)


@pytest.mark.parametrize("words", [["--version"], ["show", "nowhere"], ["chat"]])
def test_a_fork_gives_what_a_fresh_interpreter_gives(tmp_path: Path, words: list[str]) -> None:
    forked, fresh = run_captured(words, tmp_path), run_fresh(words, tmp_path)
    assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


def test_processes_of_its_own_start_as_those_of_a_fresh_interpreter(tmp_path: Path) -> None:
    """Workers that read data ahead, say; a fork server of the child's own would import everything anew."""

    def print_way() -> int:
        print(multiprocessing.get_start_method())
        return 0

    assert in_a_fork(tmp_path, print_way) == (0, multiprocessing.get_start_method() + "\n", "")
