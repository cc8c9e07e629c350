"""A run whose terminal, reader, disk of logs or working directory goes away: it goes on, or is saved and says why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.forks import end_of, fork, run_forked
from support.runs import digest, stable_metrics

from neuralchat import cli
from neuralchat.training import callbacks as callbacks_module
from neuralchat.training import finetune as finetune_module
from neuralchat.training import step as step_module

Result = tuple[str, list[dict[str, Any]]]
ROWS = [{"instruction": f"Say the word number {i}.", "output": f"Word {i} it is."} for i in range(16)]


class Place:
    """A model and records, and runs that all must come to the same adapter."""

    def __init__(self, directory: Path, model: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.records = directory / "records.json"
        self.records.write_text(json.dumps(ROWS))
        self.model = model

    def words(self, output: str | Path, *extra: str) -> list[str]:
        return [
            "finetune",
            "--model_name_or_path",
            str(self.model),
            "--train_file",
            str(self.records),
            "--output_dir",
            str(output),
            "--num_train_epochs",
            "2",
            "--per_device_train_batch_size",
            "4",
            "--learning_rate",
            "0.05",
            "--logging_steps",
            "1",
            "--save_strategy",
            "no",
            "--sample_tokens",
            "4",
            "--report_samples",
            "1",
            *extra,
        ]

    def run(self, output: str, *extra: str, prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
        self.log.unlink(missing_ok=True)
        status = run_forked(self.words(output, *extra), self.directory, self.log, prepare)
        return status, self.log.read_text()

    def result(self, output: str) -> Result:
        return digest(self.directory / output), stable_metrics(self.directory / output)


@pytest.fixture
def place(tmp_path: Path, llama_checkpoint: Path) -> Place:
    return Place(tmp_path, llama_checkpoint)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, llama_checkpoint: Path) -> Path:
    """The undisturbed run."""
    undisturbed = Place(tmp_path_factory.mktemp("whole"), llama_checkpoint)
    status, said = undisturbed.run("run")
    assert status == 0, said
    return undisturbed.directory / "run"


@pytest.fixture(scope="module")
def expected(whole: Path) -> Result:
    return digest(whole), stable_metrics(whole)


def at_step(number: int, work: Callable[[], Any]) -> Callable[[], None]:
    """Do something while step `number` is computed."""

    def prepare() -> None:
        true_loss, calls = step_module.causal_packed_sums, 0

        def loss(*words: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                work()
            return true_loss(*words, **named)

        step_module.causal_packed_sums = loss

    return prepare


def onto(target: str | None, *streams: int) -> Callable[[], None]:
    """Make standard streams lead to a file that takes nothing, or, for None, to a pipe whose reader ends."""

    def work() -> None:
        if target is None:
            reader, descriptor = os.pipe()
            os.close(reader)
        else:
            descriptor = os.open(target, os.O_WRONLY)
        for stream in streams:
            os.dup2(descriptor, stream)

    return work


@pytest.mark.parametrize("target", [None, "/dev/full"], ids=["the reader ends", "the disk is full"])
@pytest.mark.parametrize("streams", [(1,), (2,), (1, 2)], ids=["stdout", "stderr", "both"])
def test_output_that_fails_on_the_way_costs_nothing(
    place: Place, expected: Result, target: str | None, streams: tuple[int, ...]
) -> None:
    status, said = place.run("run", prepare=at_step(3, onto(target, *streams)))
    assert status == 0, said
    assert place.result("run") == expected
    assert "Traceback" not in said
    assert "could not be saved" not in said
    if streams == (1,):
        assert "note: standard output was not written to its end" in said


def test_output_in_ascii(place: Place) -> None:
    """Answers in other scripts are shown as they can be; the run is whole, and shown again."""
    place.records.write_text(json.dumps([{"instruction": "Grüße auf 中文?", "output": "你好"} for _ in range(4)]))

    def ascii_streams() -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding="ascii", errors="strict")

    for words in (place.words("run"), ["show", "run"]):
        place.log.unlink(missing_ok=True)
        assert run_forked(words, place.directory, place.log, ascii_streams) == 0
        said = place.log.read_text()
        assert "Traceback" not in said
        assert "Gr\\xfc\\xdfe auf \\u4e2d\\u6587?" in said


def test_the_working_directory_goes_on_the_way(place: Place, expected: Result) -> None:
    (place.directory / "here").mkdir()

    def leave() -> None:
        os.chdir(place.directory / "here")

    def gone() -> None:
        shutil.rmtree(place.directory / "here")

    def prepare() -> None:
        leave()
        at_step(3, gone)()

    status, said = place.run(str(place.directory / "run"), prepare=prepare)
    assert status == 0, said
    assert place.result("run") == expected
    assert json.loads((place.directory / "run" / "neuralchat.json").read_text())["working_directory"].endswith("here")


@pytest.mark.parametrize("verb", [["finetune", "--seed", "1"], ["show", "x"], ["chat", "x"], ["fetch"], ["--help"]])
def test_a_start_from_a_deleted_directory_is_told(place: Place, verb: list[str]) -> None:
    (place.directory / "here").mkdir()

    def prepare() -> None:
        os.chdir(place.directory / "here")
        os.rmdir(place.directory / "here")

    assert run_forked(verb, place.directory, place.log, prepare) == 2
    assert "the working directory cannot be used (No such file or directory)" in place.log.read_text()


@pytest.mark.parametrize("verb", ["finetune", "show"])
def test_a_limit_of_threads_is_told(place: Place, verb: str) -> None:
    """As for `ulimit -u`, which does not hold for root: numpy ended the process with "interrupted"."""

    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def prepare() -> None:
        threading.Thread.start = no_more  # type: ignore[method-assign]

    assert run_forked([verb, "x"], place.directory, place.log, prepare) == 2
    assert "threads can be started: this user's processes and threads are as many as" in place.log.read_text()


def test_a_closed_terminal_saves_as_sigterm_does(place: Place, expected: Result) -> None:
    def hang_up() -> None:
        # The shell and the kernel both say so.
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        onto(None, 1, 2)()

    def prepare() -> None:
        # The tests themselves may run under nohup.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        at_step(6, hang_up)()

    status, said = place.run("run", prepare=prepare)
    assert status == 128 + signal.SIGHUP, said
    assert len(list((place.directory / "run").glob("checkpoint-*"))) == 1
    status, said = place.run("run", "--resume_from_checkpoint", "auto")
    assert status == 0, said
    assert place.result("run") == expected


def test_the_end_of_a_session_is_no_impatience(place: Place) -> None:
    def end_session() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)

    status, said = place.run("run", prepare=at_step(6, end_session))
    assert status == 128 + signal.SIGTERM, said
    assert len(list((place.directory / "run").glob("checkpoint-*"))) == 1


def test_nohup_is_respected(place: Place, expected: Result) -> None:
    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        at_step(6, lambda: os.kill(os.getpid(), signal.SIGHUP))()

    status, said = place.run("run", prepare=prepare)
    assert status == 0, said
    assert place.result("run") == expected


def test_a_run_that_began_and_ended_meanwhile_is_not_replaced(place: Place) -> None:
    """Both found the directory empty; the second comes to its lock when the first has finished."""

    def prepare() -> None:
        true_session = finetune_module.make_session

        def slow(*words: Any, **named: Any) -> Any:
            session = true_session(*words, **named)
            (place.directory / "ready").write_text("")
            while not (place.directory / "go on").exists():
                time.sleep(0.01)
            return session

        finetune_module.make_session = slow

    second = fork(place.words("run"), place.directory, place.directory / "second", prepare)
    while not (place.directory / "ready").exists():
        assert second.exitcode is None, (place.directory / "second").read_text()
        time.sleep(0.01)
    status, said = place.run("run", "--seed", "7")
    assert status == 0, said
    before = digest(place.directory / "run"), (place.directory / "run" / "neuralchat.json").read_text()
    (place.directory / "go on").write_text("")
    assert end_of(second, timeout=120) == 2
    assert "--output_dir run is not empty" in (place.directory / "second").read_text()
    assert (digest(place.directory / "run"), (place.directory / "run" / "neuralchat.json").read_text()) == before


@pytest.mark.parametrize("verb", ["show", "chat", "help"])
def test_a_reader_that_has_enough_ends_a_verb_quietly(place: Place, whole: Path, verb: str) -> None:
    words = {
        "show": ["show", str(whole)],
        "chat": ["chat", str(whole), "-p", "a", "--max_new_tokens", "3"],
        "help": ["--help"],
    }

    for target, status in ((None, 0), ("/dev/full", 2)):
        place.log.unlink(missing_ok=True)
        assert run_forked(words[verb], place.directory, place.log, onto(target, 1)) == status
        said = place.log.read_text()
        assert "Traceback" not in said
        assert ("standard output cannot be written: No space left on device" in said) == bool(status)


def test_a_broken_pipe_that_is_no_output_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as that of a connection between ranks."""

    def broken(*_words: object, **_named: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(cli, "run_finetune", broken)
    assert cli.main(["finetune"]) == 2
    assert "Broken pipe" in capsys.readouterr().err


def slow_steps(seconds: float) -> Callable[[], None]:
    """Steps that take long by the clock of the run."""

    def prepare() -> None:
        from neuralchat.training import run_clock

        true_clock, true_loss, slept = run_clock.seconds_since_boot, step_module.causal_packed_sums, 0.0

        def loss(*words: Any, **named: Any) -> Any:
            nonlocal slept
            slept += seconds
            return true_loss(*words, **named)

        step_module.causal_packed_sums = loss
        run_clock.seconds_since_boot = lambda: true_clock() + slept

    return prepare


def test_a_run_ends_before_its_hours_are_over_and_goes_on(place: Place, expected: Result) -> None:
    """Steps of half an hour: two fit into 1.6 hours, and a third would not."""
    starts = 0
    status = 75
    while status == 75:
        status, said = place.run(
            "run", "--max_hours", "1.6", "--resume_from_checkpoint", "auto", prepare=slow_steps(1800)
        )
        starts += 1
        assert starts < 9
        if status == 75:
            assert "--max_hours 1.6 would be over after the next step; step" in said
            assert "--resume_from_checkpoint auto" in said
    assert status == 0, said
    assert starts > 2
    assert place.result("run") == expected


def test_a_checkpoint_every_so_many_minutes(place: Place, expected: Result) -> None:
    status, said = place.run("run", "--save_every_minutes", "50", prepare=slow_steps(1800))
    assert status == 0, said
    steps = sorted(int(path.name.rpartition("-")[2]) for path in (place.directory / "run").glob("checkpoint-*"))
    assert len(steps) == 3
    assert {later - earlier for earlier, later in pairwise(steps)} == {2}
    assert place.result("run") == expected
    for path in (place.directory / "run").glob(f"checkpoint-{steps[-1]}"):
        shutil.rmtree(path)
    status, said = place.run("run", "--resume_from_checkpoint", "auto")
    assert status == 0, said
    assert place.result("run") == expected


@pytest.mark.parametrize("number", [28, 122, 30, 5, 116])
def test_a_disk_that_does_not_take_the_metrics_for_a_while(place: Place, expected: Result, number: int) -> None:
    """Full, quota, read-only, input or output error, stale handle of a network file system."""

    def prepare() -> None:
        true_append, calls = callbacks_module.append_line, 0

        def append(path: Path, line: str) -> None:
            nonlocal calls
            calls += 1
            if 3 <= calls <= 5:
                raise OSError(number, os.strerror(number))
            true_append(path, line)

        callbacks_module.append_line = append

    status, said = place.run("run", prepare=prepare)
    assert status == 0, said
    assert f"metrics.jsonl cannot be written ({os.strerror(number)}); training goes on" in said
    assert said.count("training goes on") == 1
    assert place.result("run") == expected
