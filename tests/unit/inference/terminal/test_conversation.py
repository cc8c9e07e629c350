"""inference/terminal/conversation.py and commands.py: what the terminal shows, and what each command does."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chatbots.scripted_bot import ScriptedBot

from neuralchat.data.records import RecordReport, Turn, read_records
from neuralchat.errors import NeuralChatError
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.terminal.commands import COMMANDS, HELP
from neuralchat.inference.terminal.conversation import converse, is_command

Talk = Callable[..., tuple[ScriptedBot, str]]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Lines that come through a pipe -> (the bot afterwards, what was printed)."""

    def talk(*lines: str, bot: ScriptedBot | None = None, sampling: Sampling | None = None) -> tuple[ScriptedBot, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        bot = bot or ScriptedBot()
        assert converse(bot, sampling or Sampling()) == 0
        return bot, capsys.readouterr().out

    return talk


def said(bot: ScriptedBot) -> list[str]:
    return [turn.content for turn in bot.history]


def test_a_conversation(talk: Talk) -> None:
    lines = ["name it", "", "stop here", "/help", "long", "/hlp", "wide"]
    bot, out = talk(*lines, sampling=Sampling(max_new_tokens=9, seed=4))
    expected = f"NAMEIT\nSTOP [stopped]\n{HELP}\nLONG [cut at --max_new_tokens]\n"
    expected += f"unknown command /hlp\n{HELP}\nWIDE [cut: the model has no positions for more]\n\n"
    assert out == expected
    assert said(bot) == ["name it", "NAME IT", "long", "LONG", "wide", "WIDE"]
    assert all(options["max_new_tokens"] == 9 and options["seed"] == 4 for options in bot.options)


class ClearedUp:
    """Ctrl-C while it is cleared up: Python drops the exception."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_ctrl_c_is_lost(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(self: ScriptedBot, _text: str, **_options: Any) -> Iterator[str]:
        yield "one"
        ClearedUp()
        yield " two"
        yield " three"
        self.history = [Turn("user", "never"), Turn("assistant", "reached")]

    monkeypatch.setattr(ScriptedBot, "stream", stream)
    before = signal.getsignal(signal.SIGINT)
    bot, out = talk("a")
    assert out == "one two [stopped]\n\n"
    assert said(bot) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_an_answer_without_words_is_told(talk: Talk) -> None:
    bot, out = talk("mute", "b")
    assert out == "(empty answer)\nB\n\n"
    # In the console only: the history has what was said.
    assert bot.history[1].content != "(empty answer)"


def test_new_and_exit(talk: Talk) -> None:
    bot, out = talk("a", "/new", "b", "/exit", "c")
    assert out == "A\nB\n"
    assert said(bot) == ["b", "B"]


def test_undo_and_again(talk: Talk) -> None:
    bot, out = talk("a", "b", "/undo", "/again", "/set temperature 0.5", "/again")
    assert out.splitlines() == [
        "A",
        "B",
        "forgotten: b",
        "(temperature is 0, so the answer is the likeliest one again; /set temperature 0.7 draws others)",
        "A",
        "temperature    0.5",
        "A",
        "",
    ]
    assert said(bot) == ["a", "A"]
    assert [options["temperature"] for options in bot.options] == [0, 0, 0, 0.5]


def test_an_answer_that_is_stopped_again_leaves_what_was_there(talk: Talk) -> None:
    bot = ScriptedBot()
    bot.history = [Turn("user", "stop here"), Turn("assistant", "whole")]
    bot, out = talk("/again", bot=bot, sampling=Sampling(temperature=1.0))
    assert "[stopped]" in out
    assert said(bot) == ["stop here", "whole"]


def test_the_system_message(talk: Talk) -> None:
    bot, out = talk("/system", "/system Be brief.", "a", "/system", "/system none")
    assert out.splitlines() == [
        "there is no system message",
        "system message: Be brief.",
        "A",
        "system message: Be brief.",
        "there is no system message",
        "",
    ]
    assert bot.system is None


def test_the_base_model_answers_the_same_turn(talk: Talk) -> None:
    bot, out = talk("A one", "A two", "/system S", "/base", "three")
    # After the same turns, with the same system message; and the conversation goes on with the tuned answer.
    assert "scripted: A TWO\nbase: atwoafter2turns,S\n" in out
    assert said(bot) == ["A one", "A ONE", "A two", "A TWO", "three", "THREE"]


def test_set_changes_how_answers_are_drawn(talk: Talk) -> None:
    bot, out = talk("/set seed 5", "/set --top_p=0.5", "a", "/set seed none", "b", "/set")
    assert (bot.options[0]["seed"], bot.options[0]["top_p"]) == (5, 0.5)
    assert bot.options[1]["seed"] is None
    assert "max_new_tokens  256" in out
    for line, words in (
        ("/set temprature 1", "did you mean temperature"),
        ("/set top_k half", "must be a whole number, found 'half'"),
        ("/set temperature -1", "must not be negative"),
        ("/set max_new_tokens 0", "at least 1"),
    ):
        # Where nobody can type another, an error ends it.
        with pytest.raises(NeuralChatError, match=words):
            talk(line)


def test_stats(talk: Talk) -> None:
    _, out = talk("a", "/stats")
    assert "conversation   14 tokens of the 1024 that the model can follow" in out
    assert "last answer    4 tokens in " in out


def test_save_and_load(talk: Talk, tmp_path: Path) -> None:
    for name in ("talk.json", "talk.jsonl"):
        file = tmp_path / name
        bot, _ = talk("/system Be brief.", "a", "b", f"/save {file}", "c", f"/save {file}", "/undo")
        report = RecordReport()
        (record,) = read_records([file], report)
        assert report.problems == []
        assert [turn.content for turn in record.turns] == ["Be brief.", "a", "A", "b", "B", "c", "C"]
        bot, out = talk("x", f"/load {file}", "d")
        assert bot.system == "Be brief."
        assert said(bot) == ["a", "A", "b", "B", "c", "C", "d", "D"]
        assert "6 turn(s) loaded; the conversation goes on after: C" in out
        with pytest.raises(NeuralChatError, match="is there already; name another file"):
            talk("a", f"/save {file}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/undo", "nothing has been asked yet"),
        ("/again", "nothing has been asked yet"),
        ("/base", "nothing has been asked yet"),
        ("/save", "name a file"),
        ("/save talk.json", "nothing has been said yet"),
        ("/load", "name a file"),
        ("/load none.json", "does not exist"),
        ("/load .", "is no file"),
        ("/new now", "/new takes nothing after it, found 'now'"),
    ],
)
def test_what_a_command_cannot_do_is_told(talk: Talk, line: str, words: str) -> None:
    with pytest.raises(NeuralChatError, match=words):
        talk(line)


def test_a_file_that_cannot_be_written_or_is_no_conversation_is_told(talk: Talk, tmp_path: Path) -> None:
    with pytest.raises(NeuralChatError, match="No such file or directory"):
        talk("a", f"/save {tmp_path}/none/talk.json")
    with pytest.raises(NeuralChatError, match=r"must end in \.json or \.jsonl"):
        talk("a", f"/save {tmp_path}/talk.txt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "adapter_config.json").touch()
    with pytest.raises(NeuralChatError, match="which is a run or a model and holds its own files alone; name a place"):
        talk("a", f"/save {tmp_path}/run/talk.json")
    two = tmp_path / "two.jsonl"
    two.write_text('{"question": "a", "answer": "b"}\n{"question": "c", "answer": "d"}\n')
    with pytest.raises(NeuralChatError, match="holds 2 conversations"):
        talk(f"/load {two}")
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "a"}\n')
    with pytest.raises(NeuralChatError, match="is no conversation"):
        talk(f"/load {text}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/etc/passwd has what in it?", False),
        ("/ is the root", False),
        ("/home", True),
        ("/systm Be brief.", True),
        ("/tell me more", False),
        ("what does /set do", False),
        ("/set\nlines that were pasted", False),
    ],
)
def test_what_counts_as_a_command(line: str, expected: bool) -> None:
    assert is_command(line) == expected


def test_every_command_is_in_the_help() -> None:
    for word, command in COMMANDS.items():
        assert (word in HELP) == bool(command.what)
