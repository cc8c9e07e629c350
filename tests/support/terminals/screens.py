"""A terminal of our own: what stays on its screen after all that was written to it."""

from __future__ import annotations

import io
import re

import pytest

# Text, a control character, or an escape sequence with its number and letter.
TOKENS = re.compile(r"\x1b\[(?P<number>[\d;?]*)(?P<letter>[A-Za-z])|(?P<control>[\r\n])|(?P<text>[^\x1b\r\n]+)")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        return screen_lines(self.getvalue())


def use_terminal(monkeypatch: pytest.MonkeyPatch, *, width: int = 100, **environ: str) -> Terminal:
    """A terminal as standard error, `width` columns wide, with no settings from the one who runs the tests."""
    for name in ("NO_COLOR", "FORCE_COLOR", "LC_ALL", "LC_CTYPE", "LANG", "RANK", "WORLD_SIZE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(width), **environ}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    return terminal


def screen_lines(written: str) -> list[str]:
    """The lines that a person sees; colours are left out. Knows what is used here: \\r, \\n, erase, cursor up.

    >>> screen_lines("step 1" + chr(13) + chr(27) + "[2Knote" + chr(10) + "step 2")
    ['note', 'step 2']
    """
    lines, row, column = [""], 0, 0
    for token in TOKENS.finditer(written):
        match token.lastgroup, token["letter"] or token["control"]:
            case "text", _:
                line = lines[row].ljust(column)
                lines[row] = line[:column] + token["text"] + line[column + len(token["text"]) :]
                column += len(token["text"])
            case _, "\r":
                column = 0
            case _, "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            case _, "K":
                lines[row] = "" if token["number"] == "2" else lines[row][:column]
            case _, "A":
                row -= int(token["number"] or 1)
            case _, "m":
                pass
            case _:
                raise AssertionError(f"unknown to this terminal: {token[0]!r}")
    return [line.rstrip() for line in lines]
