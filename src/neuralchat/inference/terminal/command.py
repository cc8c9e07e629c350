"""`neuralchat chat`: talk in the terminal, ask one question, or have a file of questions answered."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from neuralchat.console.waiting import waiting
from neuralchat.errors import ArgumentsError, Problems
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.sampling_flags import sampling_of
from neuralchat.inference.terminal.batch import answer_file, check_batch_flags
from neuralchat.inference.terminal.conversation import Conversation, converse
from neuralchat.inference.terminal.server_bot import ServerBot, is_server_address
from neuralchat.runs.lock import one_writer

# They say how weights here are loaded.
LOADING_FLAGS = ("template", "base_model", "trust_remote_code", "engine")


def chat(options: argparse.Namespace) -> int:
    problems = Problems()
    with problems.noted():
        sampling = sampling_of(options)
    for check in (check_chat_flags, check_batch_flags):
        with problems.noted():
            check(options)
    problems.settle("this cannot be done:")
    # Before a model is loaded that would not be asked.
    alone = nullcontext() if options.output is None else one_writer(Path(options.output))
    with alone, partner_of(options) as bot:
        bot.system = options.system
        return talk(bot, options, sampling)


def talk(bot: Any, options: argparse.Namespace, sampling: Sampling) -> int:
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
        given = [f"--{name}" for name in LOADING_FLAGS if getattr(options, name) not in (None, False, "auto")]
        given += ["--bf16"] if options.bf16 is not None else []
        if given:
            wrong.append(f"{', '.join(given)}: the server at {options.run} has loaded its models already; leave it out")
    elif options.model is not None:
        wrong.append("--model names a model of a server; RUN is none (http://HOST:PORT would be)")
    if wrong:
        raise ArgumentsError("\n".join(wrong), problems=wrong)


@contextmanager
def partner_of(options: argparse.Namespace) -> Iterator[Any]:
    if is_server_address(options.run):
        yield ServerBot.connect(options.run, model=options.model)
    elif options.engine == "llamacpp":
        with llama_bot(options) as bot:
            yield bot
    else:
        yield loaded_bot(options)


@contextmanager
def llama_bot(options: argparse.Namespace) -> Iterator[Any]:
    """One that llama.cpp answers for, in a process that ends with the conversation."""
    with waiting("loading the model"):
        from neuralchat.inference.engine.building import EngineSettings
        from neuralchat.inference.engine.choosing import started_llama, wants_llama
        from neuralchat.inference.engine_chatbot import EngineChatbot
        from neuralchat.inference.origin import origin_of
        from neuralchat.inference.voice import Voice
    wants_llama(options.engine, options.bf16)
    origin = origin_of(options.run, options.base_model)
    how = {"template": options.template, "trust_remote_code": options.trust_remote_code}
    voice = Voice.of(origin, **how)
    engine = started_llama(origin, voice, name="model", settings=EngineSettings(most_running=1), **how)
    try:
        yield EngineChatbot(engine, voice, name=origin.name)
    finally:
        engine.close(drain=False)


def loaded_bot(options: argparse.Namespace) -> Any:
    with waiting("loading the model"):
        from neuralchat.inference.chatbot import Chatbot

        return Chatbot.load(
            options.run,
            trust_remote_code=options.trust_remote_code,
            template=options.template,
            base_model=options.base_model,
            bf16=options.bf16,
        )
