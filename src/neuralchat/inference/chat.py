"""`neuralchat chat`: talk to a run in the terminal, or ask it one question."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from neuralchat.data.records import Turn
from neuralchat.errors import ArgumentsError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling_flags import Sampling, sampling_of

HELP = "Commands: /new starts a new conversation, /exit (or Ctrl-D) leaves. Ctrl-C stops an answer."


def chat(options: argparse.Namespace) -> int:
    sampling = sampling_of(options)
    if options.prompt is not None and not options.prompt.strip():
        raise ArgumentsError("the question after -p is empty")
    bot = Chatbot.load(Path(options.run), trust_remote_code=options.trust_remote_code, template=options.template)
    system = [Turn("system", options.system)] if options.system else []
    if options.prompt is not None:
        reply(bot, [*system, Turn("user", options.prompt)], sampling)
        return 0
    return converse(bot, system, sampling)


def converse(bot: Chatbot, system: list[Turn], sampling: Sampling) -> int:
    # Bytes that are no UTF-8 come through as they do in the words of a command, and are refused as those are.
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if sys.stdin.isatty():
        print(HELP)
    history = list(system)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if line in ("/exit", "/quit"):
            return 0
        if line == "/new":
            history = list(system)
        elif line.startswith("/"):
            print(HELP)
        elif line:
            history.append(Turn("user", line))
            try:
                text = reply(bot, history, sampling)
            except KeyboardInterrupt:
                # The unanswered question is forgotten, so that the history stays question and answer in turn.
                print(" [stopped]")
                history.pop()
            else:
                history.append(Turn("assistant", text))


def reply(bot: Chatbot, turns: list[Turn], sampling: Sampling) -> str:
    answer = bot.answer(turns, sampling, on_text=lambda text: print(text, end="", flush=True))
    print("" if answer.finished else " [cut at --max_new_tokens]")
    return answer.text
