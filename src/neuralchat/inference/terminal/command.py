"""`neuralchat chat`: talk in the terminal, ask one question, or have a file of questions answered."""

from __future__ import annotations

import argparse
from typing import Any

from neuralchat.console.waiting import waiting
from neuralchat.errors import ArgumentsError
from neuralchat.inference.sampling_flags import sampling_of
from neuralchat.inference.terminal.batch import answer_file, check_batch_flags
from neuralchat.inference.terminal.conversation import Conversation, converse
from neuralchat.inference.terminal.server_bot import ServerBot, is_server_address

# They say how weights here are loaded.
LOADING_FLAGS = ("template", "base_model", "trust_remote_code")


def chat(options: argparse.Namespace) -> int:
    sampling = sampling_of(options)
    check_chat_flags(options)
    check_batch_flags(options)
    bot = partner_of(options)
    bot.system = options.system
    if options.file is not None:
        return answer_file(bot, options.file, options.output, sampling)
    if options.prompt is not None:
        Conversation(bot, sampling).reply(options.prompt)
        return 0
    return converse(bot, sampling)


def check_chat_flags(options: argparse.Namespace) -> None:
    """Raises ArgumentsError with all that does not go together."""
    wrong = []
    if options.prompt is not None and not options.prompt.strip():
        wrong.append("the question after -p is empty")
    if is_server_address(options.run):
        given = [f"--{name}" for name in LOADING_FLAGS if getattr(options, name)]
        if given:
            wrong.append(f"{', '.join(given)}: the server at {options.run} has loaded its models already; leave it out")
    elif options.model is not None:
        wrong.append("--model names a model of a server; RUN is none (http://HOST:PORT would be)")
    if wrong:
        raise ArgumentsError("\n".join(wrong))


def partner_of(options: argparse.Namespace) -> Any:
    if is_server_address(options.run):
        return ServerBot.connect(options.run, model=options.model)
    with waiting("loading the model"):
        from neuralchat.inference.chatbot import Chatbot

        return Chatbot.load(
            options.run,
            trust_remote_code=options.trust_remote_code,
            template=options.template,
            base_model=options.base_model,
        )
