"""`neuralchat chat`: talk to a run in the terminal, or ask it one question."""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys

from neuralchat.console import put
from neuralchat.errors import ArgumentsError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.sampling_flags import sampling_of

HELP = "Commands: /new starts a new conversation, /exit (or Ctrl-D) leaves. Ctrl-C stops an answer."


def chat(options: argparse.Namespace) -> int:
    sampling = sampling_of(options)
    if options.prompt is not None and not options.prompt.strip():
        raise ArgumentsError("the question after -p is empty")
    bot = Chatbot.load(options.run, trust_remote_code=options.trust_remote_code, template=options.template)
    bot.system = options.system
    if options.prompt is not None:
        reply(bot, options.prompt, sampling)
        return 0
    return converse(bot, sampling)


def converse(bot: Chatbot, sampling: Sampling) -> int:
    # Bytes that are no UTF-8 come through as they do in the words of a command, and are refused as those are.
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if sys.stdin.isatty():
        put(HELP)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        # OSError: of a terminal that was closed.
        except (EOFError, KeyboardInterrupt, OSError):
            put("")
            return 0
        if line in ("/exit", "/quit"):
            return 0
        if line == "/new":
            bot.reset()
        elif line.startswith("/"):
            put(HELP)
        elif line:
            said_before = bot.history
            try:
                reply(bot, line, sampling)
            except KeyboardInterrupt:
                # The unanswered question is forgotten, so that the history stays question and answer in turn.
                put(" [stopped]")
                bot.history = said_before


def reply(bot: Chatbot, question: str, sampling: Sampling) -> None:
    for piece in bot.stream(question, **dataclasses.asdict(sampling)):
        put(piece, end="")
    assert bot.last is not None
    put("" if bot.last.finished else " [cut at --max_new_tokens]")
