"""console/messages.py: what is logged, and how it is shown."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys

import pytest
from support.terminals.screens import Terminal, use_terminal

from neuralchat.console import inform, log, note, report, show_log, show_page, show_plan, warn_of_rank
from neuralchat.console.messages import HANDLER
from neuralchat.console.tables import Page, Table
from neuralchat.console.terminal import is_terminal, shows_unicode
from neuralchat.errors import DataError, DistributedError
from neuralchat.training.stopping import InterruptedTrainingError, OutOfTimeError

HOSTILE = "file [bold]a[/bold] :smile: \x1b[31m\x07\r\x9b2J.json"
SHOWN = r"file [bold]a[/bold] :smile: \x1b[31m\x07\x0d\x9b2J.json"


@pytest.mark.usefixtures("shown_log")
def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    inform("loading")
    note("100% [new]")
    warn_of_rank(HOSTILE)
    assert capsys.readouterr().err == f"loading\nnote: 100% [new]\nwarning: {SHOWN}\n"


@pytest.mark.usefixtures("shown_log")
def test_other_ranks_warn_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    inform("a")
    note("b")
    warn_of_rank("c")
    assert capsys.readouterr().err == "[rank 1] warning: c\n"


def test_nothing_is_shown_unless_asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "handlers", [handler for handler in log.handlers if handler is not HANDLER])
    inform("a")
    warn_of_rank("b")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("shown_log")
def test_asking_twice_shows_once(capsys: pytest.CaptureFixture[str]) -> None:
    show_log()
    inform("a")
    assert capsys.readouterr().err == "a\n"


@pytest.mark.usefixtures("shown_log")
def test_control_characters_do_not_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    note(HOSTILE)
    report(DataError(HOSTILE))
    assert terminal.getvalue() == f"note: {SHOWN}\nerror: {SHOWN}\n"


@pytest.mark.usefixtures("shown_log")
def test_another_rank_does_not_write_into_the_line_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = use_terminal(monkeypatch)
    terminal.write("step 3/18  0:10 left")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    warn_of_rank("slow")
    assert terminal.lines() == ["[rank 1] warning: slow", ""]


PLAN = {"data": "18 examples", "lora": "lora: 4 of 8 parameters trained", "forecast": "forecast: 6 steps"}


@pytest.mark.usefixtures("shown_log")
def test_the_plan_is_lines(capsys: pytest.CaptureFixture[str], said: list[str]) -> None:
    show_plan(PLAN)
    text = "18 examples\nlora: 4 of 8 parameters trained\nforecast: 6 steps"
    assert capsys.readouterr().err == f"{text}\n"
    assert said == [text]


@pytest.mark.usefixtures("shown_log")
def test_the_plan_is_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    show_plan(PLAN)
    assert terminal.lines() == [
        "╭──────────┬───────────────────────────╮",
        "│ data     │ 18 examples               │",
        "│ lora     │ 4 of 8 parameters trained │",
        "│ forecast │ 6 steps                   │",
        "╰──────────┴───────────────────────────╯",
        "",
    ]


DISAGREEMENT = Page(["the ranks differ:", Table(("", "rank", "[b]"), (("->", "1", HOSTILE),), marked=[0]), "Mend it."])


def test_an_error_may_hold_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    error = DistributedError(DISAGREEMENT)
    report(error)
    text = f"the ranks differ:\n    rank  [b]\n->  1     {SHOWN}\nMend it."
    assert capsys.readouterr().err == f"error: {text}\n"
    assert str(error) == f"the ranks differ:\n    rank  [b]\n->  1     {HOSTILE}\nMend it."


def test_an_error_with_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    report(DistributedError(DISAGREEMENT))
    width = len(SHOWN)
    assert terminal.lines() == [
        "error: the ranks differ:",
        f"╭────┬──────┬─{'─' * width}─╮",
        f"│    │ rank │ {'[b]'.ljust(width)} │",
        f"├────┼──────┼─{'─' * width}─┤",
        f"│ -> │ 1    │ {SHOWN} │",
        f"╰────┴──────┴─{'─' * width}─╯",
        "Mend it.",
        "",
    ]


def test_an_error_that_another_rank_tells(capsys: pytest.CaptureFixture[str]) -> None:
    error = DataError("a")
    error.told = True
    report(error)
    assert capsys.readouterr().err == ""


def test_what_was_asked_for_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    report(InterruptedTrainingError("stopped by SIGINT after step 2 of 4"))
    report(OutOfTimeError("--max_hours 1 would be over"))
    assert capsys.readouterr().err == "stopped by SIGINT after step 2 of 4\n--max_hours 1 would be over\n"


def test_a_page_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    show_page(DISAGREEMENT)
    found = capsys.readouterr()
    assert found.out == f"the ranks differ:\n    rank  [b]\n->  1     {SHOWN}\nMend it.\n"
    assert found.err == ""


def test_a_line_to_be_copied_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, width=20)
    command = "mpirun -n 2 python " + "x" * 40
    report(DistributedError(Page([command, Table(("a",), (("b",),)), command])))
    assert terminal.lines()[0] == f"error: {command}"
    assert terminal.lines()[-2] == command


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "Unknown"}, False), ({}, True)],
)
def test_what_is_a_terminal(environ: dict[str, str], expected: bool) -> None:
    assert is_terminal(Terminal(), environ) == expected
    assert not is_terminal(io.StringIO(), environ)


def test_what_is_no_stream_is_no_terminal() -> None:
    closed = Terminal()
    closed.close()
    assert not is_terminal(None)
    assert not is_terminal(io.StringIO())
    assert not is_terminal(os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


@pytest.mark.parametrize(
    ("encoding", "environ", "expected"),
    [
        ("utf-8", {}, True),
        (None, {}, True),
        ("UTF-8", {"LANG": "de_DE.UTF-8"}, True),
        ("utf-8", {"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, False),
        ("utf-8", {"LC_ALL": "", "LC_CTYPE": "C.UTF-8", "LANG": "C"}, True),
        ("utf-8", {"LANG": "POSIX"}, False),
        ("iso-8859-1", {"LANG": "de_DE"}, False),
        ("ascii", {}, False),
    ],
)
def test_where_more_than_ascii_is_drawn(encoding: str | None, environ: dict[str, str], expected: bool) -> None:
    assert shows_unicode(encoding, environ) == expected


def test_rich_is_imported_only_where_something_is_drawn() -> None:
    """Help and plain output do without it."""
    program = (
        "import sys; from neuralchat import cli; from neuralchat.console import note, show_log, show_plan\n"
        "from neuralchat.console.live import LiveProgress\n"
        "show_log(); note('a'); show_plan({'b': 'b: c'}); cli.make_parser().format_help()\n"
        "with LiveProgress(total_steps=2) as progress: progress.logged(1, 0.5, 1.0, 2.0, 3.0)\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'rich'])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
    assert found.stderr == "note: a\nb: c\nstep 1/2  epoch 0.50  loss 1.0000  2 tokens/s  0:03 left\n"


def test_other_handlers_have_the_text_of_a_table(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="neuralchat"):
        show_plan(PLAN)
    assert caplog.messages == ["18 examples\nlora: 4 of 8 parameters trained\nforecast: 6 steps"]
