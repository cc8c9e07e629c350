"""`neuralchat chat`: talk to a run in the terminal, or ask it one question."""

from __future__ import annotations

import argparse
import dataclasses

from neuralchat.console import put, report
from neuralchat.console.questions import Questions
from neuralchat.errors import ArgumentsError, NeuralChatError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.sampling_flags import sampling_of

HELP = """\
/new   begin a new conversation: what was said before is forgotten
/help  this
/exit  leave, as Ctrl-D does
Ctrl-C stops an answer. The arrow keys bring earlier questions back; lines that are pasted together are one question."""
NO_ANSWER = "(empty answer)"
LEAVE = ("/exit", "/quit", "/bye", "/q")


def chat(options: argparse.Namespace) -> int:
    sampling = sampling_of(options)
    if options.prompt is not None and not options.prompt.strip():
        raise ArgumentsError("the question after -p is empty")
    bot = Chatbot.load(
        options.run,
        trust_remote_code=options.trust_remote_code,
        template=options.template,
        base_model=options.base_model,
    )
    bot.system = options.system
    if options.prompt is not None:
        reply(bot, options.prompt, sampling)
        return 0
    return converse(bot, sampling)


def converse(bot: Chatbot, sampling: Sampling) -> int:
    questions = Questions()
    if questions.on_terminal:
        put("Ask away; /help says what else can be typed here, /exit or Ctrl-D leaves.")
    for line in questions:
        if line in LEAVE:
            return 0
        if line == "/new":
            bot.reset()
        elif line.startswith("/") and "\n" not in line and " " not in line:
            put(HELP if line in ("/help", "/?") else f"unknown command {line}\n{HELP}")
        else:
            answer_in_turn(bot, line, sampling, goes_on=questions.on_terminal)
    put("")
    return 0


def answer_in_turn(bot: Chatbot, question: str, sampling: Sampling, *, goes_on: bool) -> None:
    """`goes_on`: a question that cannot be asked, such as one that is too long, does not end the conversation."""
    said_before = bot.history
    try:
        reply(bot, question, sampling)
    except KeyboardInterrupt:
        # The unanswered question is forgotten, so that the history stays question and answer in turn.
        put(" [stopped]")
        bot.history = said_before
    except NeuralChatError as error:
        if not goes_on:
            raise
        report(error)


def reply(bot: Chatbot, question: str, sampling: Sampling) -> None:
    words = False
    for piece in bot.stream(question, **dataclasses.asdict(sampling)):
        words = words or bool(piece.strip())
        put(piece, end="")
    assert bot.last is not None
    if bot.last.finished:
        put("" if words else NO_ANSWER)
        return
    # Where the model has positions for fewer tokens than were allowed, those ended it.
    whole = len(bot.last.token_ids) >= sampling.max_new_tokens
    put(" [cut at --max_new_tokens]" if whole else " [cut: the model has no positions for more]")
