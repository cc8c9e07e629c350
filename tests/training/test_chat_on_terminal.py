"""`neuralchat chat` on a pseudo-terminal: earlier questions, pasted lines, commands, questions that are too long."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.chatbots.page_backend import Backend, served
from support.small_models import make_tokenizer, small_config
from support.terminals.on_terminal import RunOnTerminal
from transformers import AutoModelForCausalLM

UP, TAB, CTRL_C, CTRL_D, ALT_ENTER = b"\x1b[A", b"\t", b"\x03", b"\x04", b"\x1b\r"
CUT = b"[cut at --max_new_tokens]"


class Chat(RunOnTerminal):
    """What is shown is looked at from one thing that was typed to the next."""

    def shown_after(self, typed: bytes, until: bytes, *, prompted: bool = True) -> str:
        self.written = b""
        self.type(typed)
        self.read_until(until)
        shown = self.written.decode("utf-8", "replace")
        if prompted:
            # Keys that come before it would be echoed by the terminal itself.
            self.written = self.written.partition(until)[2]
            self.read_until(b"> ")
        return shown

    def leave(self, typed: bytes = CTRL_D) -> None:
        self.type(typed)
        self.read_until(None)
        assert self.process.wait() == 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEURALCHAT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def chat(tmp_path: Path, home: Path) -> Iterator[Chat]:
    """A model of 96 positions, whose answers have 4 tokens."""
    tokenizer = make_tokenizer()
    config = small_config("gpt2", len(tokenizer))
    config.n_positions = 96
    # Others may end an answer before its fourth token.
    torch.manual_seed(8)
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    run = Chat(["chat", "./model", "--max_new_tokens", 4], tmp_path)
    run.read_until(b"> ")
    yield run
    run.end()


def test_a_conversation(chat: Chat, home: Path) -> None:
    assert b"loading the model" in chat.written
    assert "begin a new conversation" in chat.shown_after(b"/help\r", b"one question.")
    chat.shown_after(b"Name a fruit.\r", CUT)
    # An earlier question comes back, and no escape sequence is shown for the key.
    shown = chat.shown_after(UP, b"Name a fruit.", prompted=False)
    assert "^[" not in shown
    chat.shown_after(b"\r", CUT)
    # A paste as terminals mark it is one question, sent by Enter.
    shown = chat.shown_after(b"\x1b[200~one\rtwo\rthree\x1b[201~\r", CUT)
    assert shown.count("[cut at") == 1
    # Without marks its lines come at once.
    shown = chat.shown_after(b"Name it.\rName\rthat.\r", CUT)
    assert shown.count("[cut at") == 1
    # A question that is too long is told, and the conversation goes on.
    shown = chat.shown_after(b"Name a colour of the sky. " * 30 + b"\r", b"ask a shorter one")
    assert "has positions for 96 tokens" in shown
    # Its first turns are left out where there is no room for them, and that is said.
    shown = chat.shown_after(b"Name a fruit.\r", CUT)
    assert "turn(s) are left out of this answer" in shown.replace("\r\n", " ")
    # What Alt-Enter begins is a line of the same question.
    chat.shown_after(b"up" + ALT_ENTER + b"down\r", CUT)
    # What was wrong does not end the conversation either.
    assert "has no base model beside it" in chat.shown_after(b"/base\r", b"beside it")
    chat.leave()

    file = home / "chat_history.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert kept[:4] == ["/help", "Name a fruit.", "one\ntwo\nthree", "Name it.\nName\nthat."]
    assert kept[-3:] == ["Name a fruit.", "up\ndown", "/base"]


@pytest.fixture
def server(home: Path) -> Iterator[Backend]:
    with served(Backend()) as backend:
        yield backend


@pytest.fixture
def talk(server: Backend, tmp_path: Path) -> Iterator[Chat]:
    """Talk to a server, which answers at once and with what was asked."""
    run = Chat(["chat", server.url], tmp_path)
    run.read_until(b"> ")
    yield run
    run.end()


def test_commands_stopping_and_markdown(talk: Chat, server: Backend, tmp_path: Path) -> None:
    assert b"asking runs/support" in talk.written
    # Tab completes a command.
    assert "conversation" in talk.shown_after(b"/sta" + TAB + b"\r", b"0 tokens")
    # Ctrl-C stops the answer, and nothing else; the question is forgotten.
    talk.shown_after(b"slow\r", b"word word", prompted=False)
    talk.shown_after(CTRL_C, b"[stopped]")
    shown = talk.shown_after(b"markdown\r", b"17:00")
    assert [message["content"] for message in server.requests[-1]["messages"]] == ["markdown"]
    assert "**blocked**" not in shown.partition("blocked")[0][-2:]
    # The two models beside each other.
    shown = talk.shown_after(b"/undo\r", b"forgotten: markdown")
    talk.shown_after(b"one\r", b"heard: one")
    shown = talk.shown_after(b"/base\r", b"smollm2 heard: one")
    assert "runs/support heard: one" in shown
    assert "smollm2" in shown
    assert "temperature" in talk.shown_after(b"/set temperature 0.5\r", "╯".encode())
    talk.shown_after(b"/again\r", b"heard: one")
    assert server.requests[-1]["temperature"] == 0.5
    talk.shown_after(b"/save talk.json\r", b"trained on")
    assert json.loads((tmp_path / "talk.json").read_text())[0]["messages"][0] == {"role": "user", "content": "one"}
    # Ctrl-C clears a line, and on an empty one leaves.
    talk.shown_after(b"/exi", b"/exi", prompted=False)
    talk.leave(CTRL_C + CTRL_C)
