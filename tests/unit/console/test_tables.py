"""console/tables.py and drawing.py: the same content as plain text and drawn."""

from __future__ import annotations

import pytest
from support.terminals.screens import Terminal

from neuralchat.console.drawing import Screen
from neuralchat.console.tables import Page, Plan, Table, results_table

HOSTILE = "[red]a[/red] \x1b[2J"
SHOWN = r"[red]a[/red] \x1b[2J"
SAMPLES = [("How do I reset my badge?", "I do not know.", "At the desk, room 4."), ("And on Sundays?", HOSTILE, "")]
FIGURES = [("training loss", "1.2345 (mean over 18 steps)"), ("time", "1:15"), ("held-out answers", "rouge1 0.500")]
POINTERS = [("run", "runs/a"), ("chat", "neuralchat chat runs/a")]


def drawn(page: Page, width: int = 60) -> list[str]:
    terminal = Terminal()
    Screen(terminal, width=width).show(page)
    return terminal.lines()


@pytest.fixture(autouse=True)
def unicode_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def test_results_as_text() -> None:
    assert str(results_table(SAMPLES, FIGURES, POINTERS)) == (
        "\nQ  How do I reset my badge?\n   before  I do not know.\n   after   At the desk, room 4.\n"
        f"\nQ  And on Sundays?\n   before  {HOSTILE}\n   after   \n"
        "\n"
        "training loss  1.2345 (mean over 18 steps)\n"
        "time           1:15\n"
        "held-out answers  rouge1 0.500\n"
        "run            runs/a\n"
        "chat           neuralchat chat runs/a"
    )


@pytest.mark.parametrize(
    ("figures", "expected"), [([], ""), ([("held-out loss", "1.0000")], "\nheld-out loss  1.0000")]
)
def test_results_of_an_evaluation_alone(figures: list[tuple[str, str]], expected: str) -> None:
    assert str(results_table([], figures, [])) == expected


def test_results_drawn() -> None:
    assert drawn(results_table(SAMPLES, FIGURES, POINTERS)) == [
        "╭────────┬──────────────────────────╮",
        "│ Q      │ How do I reset my badge? │",
        "│ before │ I do not know.           │",
        "│ after  │ At the desk, room 4.     │",
        "├────────┼──────────────────────────┤",
        "│ Q      │ And on Sundays?          │",
        f"│ before │ {SHOWN}     │",
        "│ after  │                          │",
        "╰────────┴──────────────────────────╯",
        "",
        "╭──────────────────┬─────────────────────────────╮",
        "│ training loss    │ 1.2345 (mean over 18 steps) │",
        "│ time             │ 1:15                        │",
        "│ held-out answers │ rouge1 0.500                │",
        "╰──────────────────┴─────────────────────────────╯",
        "  run   runs/a",
        "  chat  neuralchat chat runs/a",
        "",
    ]


def test_a_narrow_terminal_folds_cells_but_not_commands() -> None:
    lines = drawn(results_table(SAMPLES, FIGURES, [("chat", "neuralchat chat " + "x" * 40)]), width=30)
    assert "  chat  neuralchat chat " + "x" * 40 in lines
    assert max(len(line) for line in lines if "chat" not in line) <= 30
    assert "│ before │ I do not know.    │" in lines


def test_ascii_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    lines = drawn(Page([Plan({"data": "18 examples"})]))
    assert lines == ["+--------------------+", "| data | 18 examples |", "+--------------------+", ""]


def test_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR leaves bold and dim, https://no-color.org."""
    table = Page([Table(("rank",), (("0",), ("1",)), marked=[1])])
    coloured, plain = Terminal(), Terminal()
    Screen(coloured, width=40).show(table)
    monkeypatch.setenv("NO_COLOR", "1")
    Screen(plain, width=40).show(table)
    assert "\x1b[1;31m1" in coloured.getvalue()
    assert "31m" not in plain.getvalue()
    assert coloured.lines() == plain.lines()


def test_half_a_surrogate_pair_is_spelled_out() -> None:
    assert drawn(Page(["a \ud83d", Table(("\ud83d",), ())]))[0] == r"a \ud83d"


def test_wide_characters_line_up() -> None:
    lines = drawn(Page([Table(("a",), (("日本語",), ("x",)))]))
    assert lines[3:5] == ["│ 日本語 │", "│ x      │"]
