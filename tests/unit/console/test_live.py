"""console/live.py: the line that moves on a terminal, and the lines that are printed elsewhere."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable

import pytest
from support.terminals.screens import Terminal, use_terminal

from neuralchat.console import inform, log, note
from neuralchat.console.live import LiveProgress
from neuralchat.console.messages import HANDLER

pytestmark = pytest.mark.usefixtures("shown_log")


class FakeClock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def plain(clock: Callable[[], float], steps: int = 18) -> tuple[LiveProgress, io.StringIO]:
    stream = io.StringIO()
    progress = LiveProgress(total_steps=steps, stream=stream, clock=clock)
    progress.start()
    progress.begin(0)
    return progress, stream


def done(progress: LiveProgress, step: int, loss: float | None = 1.5, left: float = 75.0) -> None:
    progress.step_done(step, epoch=step / 6, loss=loss, tokens_per_s=523.4, memory_bytes=5 << 29, seconds_left=left)


# Plain lines


def test_a_line_for_each_logging_step(clock: FakeClock) -> None:
    progress, stream = plain(clock)
    for step in range(1, 5):
        progress.within_step(0.5)
        done(progress, step)
        if step % 2 == 0:
            progress.logged(step, step / 6, 6.36842, 23906.4, 3700.0)
    progress.stop()
    assert stream.getvalue() == (
        "step 2/18  epoch 0.33  loss 6.3684  23906 tokens/s  1:01:40 left\n"
        "step 4/18  epoch 0.67  loss 6.3684  23906 tokens/s  1:01:40 left\n"
    )


def test_a_line_a_minute_within_a_long_step(clock: FakeClock) -> None:
    """A step of four micro-batches of 50 s: none is logged, a line is due at 100 s, at 200 s."""
    progress, stream = plain(clock, steps=3)
    for step in (1, 2):
        for micro_batch in range(1, 5):
            clock.now += 50
            progress.within_step(micro_batch / 4)
        done(progress, step, left=200.0 * (3 - step))
    progress.stop()
    assert stream.getvalue() == (
        "step 0/3 +50%  8:20 left\n"
        "step 0/3 +100%  6:40 left\n"
        "step 1/3 +50%  epoch 0.17  loss 1.5000  523 tokens/s  5:00 left\n"
        "step 1/3 +100%  epoch 0.17  loss 1.5000  523 tokens/s  3:20 left\n"
    )


def test_a_logging_step_is_told_once(clock: FakeClock) -> None:
    """Steps of more than a minute, each logged: the line that is due is that of the log."""
    progress, stream = plain(clock)
    for step in (1, 2):
        clock.now += 70
        done(progress, step)
        progress.logged(step, step / 6, 2.0, 10.0, 30.0)
    progress.stop()
    assert stream.getvalue().count("\n") == 2


def test_short_steps_that_are_not_logged_are_told_once_a_minute(clock: FakeClock) -> None:
    progress, stream = plain(clock, steps=1000)
    for step in range(1, 301):
        clock.now += 1
        progress.within_step(1.0)
        done(progress, step)
    progress.stop()
    steps = [int(line.split("/")[0].removeprefix("step ")) for line in stream.getvalue().splitlines()]
    assert [b - a for a, b in zip([0, *steps], steps, strict=False)] == [pytest.approx(60, abs=2)] * len(steps)
    assert len(steps) in (4, 5)


def test_steps_alone_are_told_too(clock: FakeClock) -> None:
    progress, stream = plain(clock)
    for step in range(1, 4):
        clock.now += 61
        done(progress, step)
    progress.stop()
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["2/18", "3/18"]


def test_evaluation_is_told(clock: FakeClock) -> None:
    progress, stream = plain(clock)
    with progress.activity("evaluating") as advance:
        for part in (0.25, 0.5, 0.75, 1.0):
            clock.now += 40
            advance(part)
    clock.now += 1
    done(progress, 1)
    progress.stop()
    assert stream.getvalue() == "step 0/18  evaluating 50%\nstep 0/18  evaluating 100%\n"


def test_before_the_first_step_there_is_no_step(clock: FakeClock) -> None:
    stream = io.StringIO()
    with LiveProgress(total_steps=9, stream=stream, clock=clock) as progress:
        with progress.activity("evaluating") as advance:
            clock.now += 60
            advance(0.5)
        clock.now += 100
        progress.begin(4)
        # What was waited for before counts for nothing: 2 s for half a step, so 4.5 steps take 18 s.
        clock.now += 2
        progress.within_step(0.5)
    assert stream.getvalue() == "evaluating 50%\nstep 4/9\n"
    assert progress.standing.fields(clock())["left"] == "0:18 left"


def test_a_skipped_step_keeps_the_loss(clock: FakeClock) -> None:
    progress, _ = plain(clock)
    done(progress, 1, loss=2.5)
    done(progress, 2, loss=None)
    assert progress.standing.loss == 2.5


# Nobody to look


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet(clock: FakeClock, stream: io.StringIO) -> None:
    with LiveProgress(total_steps=3, quiet=True, stream=stream, clock=clock) as progress:
        progress.within_step(0.5)
        done(progress, 1)
        progress.logged(1, 0.5, 1.0, 2.0, 3.0)
        with progress.activity("evaluating") as advance:
            advance(1.0)
    assert stream.getvalue() == ""


def test_a_library_is_quiet_unless_its_log_is_shown(clock: FakeClock) -> None:
    log.removeHandler(HANDLER)
    stream = Terminal()
    with LiveProgress(total_steps=3, stream=stream, clock=clock) as progress:
        done(progress, 1)
    assert stream.getvalue() == ""


def test_other_ranks_are_silent(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    stream = Terminal()
    with LiveProgress(total_steps=3, stream=stream, clock=clock) as progress:
        done(progress, 1)
    assert stream.getvalue() == ""


# A terminal


def last_line(terminal: Terminal) -> str:
    return next(line for line in reversed(terminal.lines()) if line)


def test_the_line_moves_in_place(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, width=100)
    with LiveProgress(total_steps=4, clock=clock) as progress:
        progress.begin(0)
        done(progress, 1)
        clock.now += 1
        done(progress, 2, loss=1.25)
        assert terminal.lines() == [
            "━━━━━━━━━━━━━━╺━━━━━━━━━━━━━  step 2/4  epoch 0.33  loss 1.2500  523 tokens/s  2.5 GiB  1:15 left"
        ]
        for step in (3, 4):
            clock.now += 1
            done(progress, step, left=0.0)
    lines = terminal.lines()
    assert len(lines) == 2
    assert lines[0].startswith("━━━━━━━━━━━━━━━━━━━━━━━━━━━━  step 4/4  epoch 0.67")
    assert lines[1] == ""


def test_the_line_moves_within_a_step(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with LiveProgress(total_steps=2, clock=clock) as progress:
        progress.begin(0)
        seen = []
        for micro_batch in range(1, 5):
            clock.now += 15
            progress.within_step(micro_batch / 4)
            seen.append(last_line(terminal))
    bars = [line.split("  ")[0] for line in seen]
    assert [line.split("  ")[1] for line in seen] == [f"step 0/2 +{part}%" for part in (25, 50, 75, 100)]
    assert [line.split("  ")[2] for line in seen] == ["1:45 left", "1:30 left", "1:15 left", "1:00 left"]
    assert len(set(bars)) == 4
    assert {len(bar) for bar in bars} == {40}


def test_short_steps_show_no_part(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with LiveProgress(total_steps=2, clock=clock) as progress:
        progress.begin(0)
        clock.now += 0.5
        progress.within_step(0.5)
        assert "%" not in last_line(terminal)


def test_time_left_runs_down_between_steps(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with LiveProgress(total_steps=4, clock=clock) as progress:
        done(progress, 1, left=75.0)
        clock.now += 30
        progress.within_step(0.5)
        assert last_line(terminal).endswith("0:45 left")


def test_it_is_drawn_at_most_ten_times_a_second(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with LiveProgress(total_steps=2, clock=clock) as progress:
        for _ in range(1000):
            clock.now += 0.001
            progress.within_step(0.5)
    assert 9 <= terminal.getvalue().count("\r") <= 13


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (120, "step 12/18  epoch 2.00  loss 1.5000  523 tokens/s  2.5 GiB  1:15 left"),
        (80, "step 12/18  loss 1.5000  523 tokens/s  2.5 GiB  1:15 left"),
        (60, "step 12/18  loss 1.5000  1:15 left"),
        (40, "step 12/18  1:15 left"),
        (25, "step 12/18"),
        (12, "step 12/1"),
    ],
)
def test_narrow_terminals_drop_fields(
    width: int, expected: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = use_terminal(monkeypatch, width=width)
    with LiveProgress(total_steps=18, clock=clock) as progress:
        clock.now += 1
        done(progress, 12)
        assert terminal.lines() == [last_line(terminal)]
        assert last_line(terminal).lstrip("━╸╺ ") == expected
        assert len(last_line(terminal)) <= width - 3


@pytest.mark.parametrize("environ", [{"LC_ALL": "C"}, {"LANG": "POSIX"}])
def test_ascii(environ: dict[str, str], clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, **environ)
    with LiveProgress(total_steps=18, clock=clock) as progress:
        done(progress, 9)
    assert terminal.getvalue().isascii()
    assert "----" in terminal.getvalue()


def test_no_colour(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to come of the bar must not look as what is done."""
    terminal = use_terminal(monkeypatch, NO_COLOR="1")
    with LiveProgress(total_steps=2, clock=clock) as progress:
        clock.now += 1
        done(progress, 1)
    assert "\x1b[3" not in terminal.getvalue()
    assert last_line(terminal).split("  ")[0] == "━" * 14 + "." * 14


def test_a_dumb_terminal_gets_plain_lines(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, TERM="dumb")
    with LiveProgress(total_steps=2, clock=clock) as progress:
        progress.begin(0)
        done(progress, 1)
        progress.logged(1, 0.5, 1.0, 2.0, 3.0)
    assert terminal.getvalue() == "step 1/2  epoch 0.50  loss 1.0000  2 tokens/s  0:03 left\n"


def test_messages_stand_above_the_line(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, width=60)
    long = "a name " + "x" * 80
    with LiveProgress(total_steps=2, clock=clock) as progress:
        progress.begin(0)
        inform("[b]saved[/b] \x1b[2J\r")
        note(long)
        logging.getLogger("neuralchat.other").warning("from elsewhere")
        print("printed by a callback", file=sys.stderr)
        lines = terminal.lines()
    assert lines[:4] == [
        r"[b]saved[/b] \x1b[2J\x0d", f"note: {long}", "warning: from elsewhere", "printed by a callback"
    ]  # fmt: skip
    assert lines[4].endswith("step 0/2")
    assert len(lines) == 5


def test_standard_output_that_is_a_file_is_left_alone(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    use_terminal(monkeypatch)
    output = io.StringIO()
    monkeypatch.setattr("sys.stdout", output)
    with LiveProgress(total_steps=2, clock=clock):
        print("an answer")
    assert output.getvalue() == "an answer\n"


def test_an_activity_is_shown_and_forgotten(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with LiveProgress(total_steps=4, clock=clock) as progress:
        progress.begin(0)
        with progress.activity("evaluating") as advance:
            assert "step 0/4  evaluating" in last_line(terminal)
            clock.now += 1
            advance(0.5)
            assert "evaluating 50%" in last_line(terminal)
        assert "evaluating" not in last_line(terminal)
        with pytest.raises(KeyError), progress.activity("saving"):
            raise KeyError
        assert "saving" not in last_line(terminal)


def test_before_anything_is_known_the_line_is_empty(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with LiveProgress(total_steps=4, clock=clock):
        assert terminal.lines() == [""]


def test_an_evaluation_alone_leaves_no_line(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with LiveProgress(total_steps=4, clock=clock) as progress, progress.activity("evaluating") as advance:
        clock.now += 1
        advance(0.5)
        assert last_line(terminal) == "━" * 20 + "╺" + "━" * 19 + "  evaluating 50%"
    assert "".join(terminal.lines()) == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_whatever_ends_it_leaves_a_sane_terminal(
    error: type[BaseException], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = use_terminal(monkeypatch)

    def train() -> None:
        with LiveProgress(total_steps=4, clock=clock) as progress:
            done(progress, 1)
            raise error

    with pytest.raises(error):
        train()
    assert sys.stderr is terminal
    # The cursor was never hidden, and stands at the beginning of a line.
    assert "\x1b[?25l" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")
    assert "step 1/4" in terminal.lines()[-2]
    note("afterwards")
    assert terminal.lines()[-2] == "note: afterwards"


def test_stopping_twice_is_stopping_once(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with LiveProgress(total_steps=4, clock=clock) as progress:
        done(progress, 1)
        progress.stop()
        written = terminal.getvalue()
        progress.within_step(0.5)
    assert terminal.getvalue() == written
