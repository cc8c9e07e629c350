"""`neuralchat chat` on a pseudo-terminal: earlier questions, pasted lines, commands, questions that are too long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.small_models import make_tokenizer, small_config
from support.terminals.on_terminal import RunOnTerminal
from transformers import AutoModelForCausalLM

UP = b"\x1b[A"


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[RunOnTerminal]:
    """A model of 96 positions, whose answers have 4 tokens."""
    tokenizer = make_tokenizer()
    config = small_config("gpt2", len(tokenizer))
    config.n_positions = 96
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    run = RunOnTerminal(["chat", "./model", "--max_new_tokens", 4], tmp_path)
    run.read_until(b"> ")
    yield run
    run.end()


def test_a_conversation(chat: RunOnTerminal) -> None:
    def shown_after(typed: bytes, until: bytes, *, prompted: bool = True) -> str:
        chat.written = b""
        chat.type(typed)
        chat.read_until(until)
        shown = chat.written.decode("utf-8", "replace")
        if prompted:
            # Keys that come before it would be echoed by the terminal itself.
            chat.written = chat.written.partition(until)[2]
            chat.read_until(b"> ")
        return shown

    cut = b"[cut at --max_new_tokens]"
    assert "/new   begin a new conversation" in shown_after(b"/help\r", b"one question.")
    shown_after(b"Name a fruit.\r", cut)
    # An earlier question comes back, and no escape sequence is shown for the key.
    shown = shown_after(UP, b"Name a fruit.", prompted=False)
    assert "^[" not in shown
    shown_after(b"\r", cut)
    # A paste as terminals mark it is one question, sent by Enter.
    shown = shown_after(b"\x1b[200~one\rtwo\rthree\x1b[201~\r", cut)
    assert shown.count("[cut at") == 1
    # Without marks its lines come at once.
    shown = shown_after(b"Name it.\rName\rthat.\r", cut)
    assert shown.count("[cut at") == 1
    # A question that is too long is told, and the conversation goes on.
    shown = shown_after(b"Name a colour of the sky. " * 30 + b"\r", b"ask a shorter one")
    assert "has positions for 96 tokens" in shown
    shown_after(b"Name a fruit.\r", cut)
    chat.type(b"\x04")
    chat.read_until(None)
    assert chat.process.wait() == 0
