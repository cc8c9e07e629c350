"""console/waiting.py: a bar while something is waited for."""

from __future__ import annotations

import pytest
from support.terminals.screens import use_terminal

from neuralchat.console import inform, log
from neuralchat.console.messages import HANDLER
from neuralchat.console.waiting import waiting

pytestmark = pytest.mark.usefixtures("shown_log")


def test_a_bar_with_bytes_goes_when_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, width=80)
    with waiting("downloading [b]", total_bytes=2_000_000, done_bytes=lambda: 500_000):
        inform("from the index")
        while "0.5/2.0 MB" not in terminal.getvalue():
            pass
        assert terminal.lines()[0] == "from the index"
        assert terminal.lines()[1].startswith("downloading [b] ━")
    assert [line for line in terminal.lines() if line] == ["from the index"]
    assert "\x1b[?25l" not in terminal.getvalue()


def test_without_bytes_something_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, width=80)
    with waiting("converting"):
        assert terminal.lines()[0].startswith("converting ━")
    assert "MB" not in terminal.getvalue()


def test_it_goes_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, width=80)
    with pytest.raises(OSError, match="no room"), waiting("converting"):
        raise OSError("no room")
    assert "".join(terminal.lines()) == ""


def test_elsewhere_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("converting"):
        pass
    assert capsys.readouterr().err == ""


def test_a_quiet_library_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log.removeHandler(HANDLER)
    terminal = use_terminal(monkeypatch)
    with waiting("converting"):
        pass
    assert terminal.getvalue() == ""
