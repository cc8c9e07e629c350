"""inference/terminal/conversation.py: what the terminal shows, and what Ctrl-C forgets."""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from neuralchat.data.records import Turn
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.terminal.commands import HELP
from neuralchat.inference.terminal.conversation import converse


class ScriptedBot:
    """Answers with the question in capitals, word by word; "stop" is interrupted after one, "mute" is silent."""

    def __init__(self) -> None:
        self.history: list[Turn] = []
        self.last = SimpleNamespace(finished=True, token_ids=())
        self.options: list[dict[str, Any]] = []

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        self.options.append(options)
        for word in [] if text == "mute" else text.upper().split():
            yield word
            if text.startswith("stop"):
                # Ctrl-C reaches the loop of the reader, so what was handed out is remembered by then.
                self.history = [*self.history, Turn("user", text), Turn("assistant", word)]
                raise KeyboardInterrupt
        self.history = [*self.history, Turn("user", text), Turn("assistant", text.upper())]
        count = 9 if text == "long" else 4
        self.last = SimpleNamespace(finished=text not in ("long", "wide"), token_ids=range(count))

    def reset(self) -> None:
        self.history = []


def test_a_conversation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["name it", "", "stop here", "/help", "long", "/hlp", "wide"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    bot: Any = ScriptedBot()
    assert converse(bot, Sampling(max_new_tokens=9, seed=4)) == 0
    expected = f"NAMEIT\nSTOP [stopped]\n{HELP}\nLONG [cut at --max_new_tokens]\n"
    expected += f"unknown command /hlp\n{HELP}\nWIDE [cut: the model has no positions for more]\n\n"
    assert capsys.readouterr().out == expected
    assert [turn.content for turn in bot.history] == ["name it", "NAME IT", "long", "LONG", "wide", "WIDE"]
    assert all(options["max_new_tokens"] == 9 and options["seed"] == 4 for options in bot.options)


def test_an_answer_without_words_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("mute\nb\n"))
    bot: Any = ScriptedBot()
    assert converse(bot, Sampling()) == 0
    assert capsys.readouterr().out == "(empty answer)\nB\n\n"
    # In the console only: the history has what was said.
    assert bot.history[1].content != "(empty answer)"


def test_new_and_exit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n/new\nb\n/exit\nc\n"))
    bot: Any = ScriptedBot()
    assert converse(bot, Sampling()) == 0
    assert capsys.readouterr().out == "A\nB\n"
    assert [turn.content for turn in bot.history] == ["b", "B"]
