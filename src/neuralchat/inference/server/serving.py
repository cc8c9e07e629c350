"""`neuralchat serve`: runs -> an engine with their adapters, a voice for each, and a server above both."""

from __future__ import annotations

import argparse
import functools
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends

from neuralchat.console import inform, show_log
from neuralchat.errors import ArgumentsError, ModelError, Problems, TemplateError, problem_list
from neuralchat.inference.engine.asking import BASE, TUNED, borrowed_engine
from neuralchat.inference.engine.building import EngineSettings, load_engine
from neuralchat.inference.engine.choosing import check_engine, started_llama, wants_llama
from neuralchat.inference.engine.interface import Engine
from neuralchat.inference.engine.llama.llama_engine import ONE_MODEL
from neuralchat.inference.engine.process import ProcessEngine
from neuralchat.inference.engine.torch_engine import MOST_WAITING
from neuralchat.inference.loading import is_sha256
from neuralchat.inference.origin import Origin, on_other_base, origin_of
from neuralchat.inference.page.feedback import FeedbackFile
from neuralchat.inference.page.routes import PageSettings, page_router
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.sampling_flags import sampling_of
from neuralchat.inference.server.app import Served, make_app
from neuralchat.inference.server.lineup import Lineup
from neuralchat.inference.server.running import ended_by_sigterm, listening_socket, run_until_stopped, server_of, url_of
from neuralchat.inference.server.settings import CANNOT_START, ServerSettings, settings_from
from neuralchat.inference.voice import Voice
from neuralchat.models.loading.base_fingerprint import base_fingerprint
from neuralchat.models.loading.base_model import resolve
from neuralchat.models.quiet import leave_out_warnings, quiet_libraries

if TYPE_CHECKING:
    from neuralchat.inference.chatbot import Chatbot

CANNOT_SERVE = "these cannot be served together:"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._@-]{0,99}){0,3}")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What `Chatbot.load` takes besides the place."""

    template: str | None = None
    trust_remote_code: bool = False
    base_model: str | None = None
    bf16: bool | None = None


@dataclass(frozen=True)
class NamedRun:
    """What is served under `name`: an adapter, or a whole model, which is then the base of the others."""

    name: str
    place: str
    origin: Origin

    @property
    def is_adapter(self) -> bool:
        return self.origin.method is not None and not self.origin.is_whole_model


@dataclass(frozen=True, kw_only=True)
class ServeFlags:
    """What the flags of `neuralchat serve` say."""

    settings: ServerSettings
    how: LoadOptions
    sizes: EngineSettings
    runs: Sequence[NamedRun]


def serve_flags(options: argparse.Namespace) -> ServeFlags:
    """Raises ArgumentsError with all that is wrong; nothing is loaded yet."""
    problems = Problems()
    # Stands in where the sampling itself is wrong.
    sampling = Sampling(max_new_tokens=1)
    how = LoadOptions(
        template=options.template,
        trust_remote_code=options.trust_remote_code,
        base_model=options.base_model,
        bf16=options.bf16,
    )
    with problems.noted():
        sampling = sampling_of(options)
    with problems.noted():
        settings = settings_from(options, sampling, os.environ)
    with problems.noted():
        sizes = EngineSettings(
            memory_tokens=options.memory_tokens, most_running=options.most_running, most_waiting=options.most_waiting
        )
    with problems.noted():
        check_engine(options.engine, options.bf16)
    with problems.noted():
        runs = named_runs(options.runs, how)
    problems.settle(CANNOT_START)
    return ServeFlags(settings=settings, how=how, sizes=sizes, runs=runs)


def serve(options: argparse.Namespace) -> int:
    flags = serve_flags(options)
    settings, how, sizes, runs = flags.settings, flags.how, flags.sizes, flags.runs
    with ended_by_sigterm(), listening_socket(settings) as listener:
        if wants_llama(options.engine):
            voices, engine = llama_served(runs, how, sizes)
        else:
            voices = voices_of(runs, how)
            engine = ProcessEngine(functools.partial(loaded_engine, runs, how, sizes))
        try:
            engine.wait_ready()
            lineup = Lineup(
                engine, voices, runs_directory=settings.runs_directory, load_voice=VoicesOnBase(runs[0].origin, how)
            )
            return serve_lineup(engine, lineup, settings, listener)
        finally:
            engine.close(drain=False)


def llama_served(
    runs: Sequence[NamedRun], how: LoadOptions, sizes: EngineSettings
) -> tuple[dict[str, Voice], ProcessEngine]:
    """The one run that llama.cpp answers for. Raises ArgumentsError for several."""
    if len(runs) > 1:
        raise ArgumentsError(f"--engine llamacpp: {ONE_MODEL}; found {', '.join(run.name for run in runs)}")
    run = runs[0]
    voice = voice_of_run(run.place, how if run.is_adapter else replace(how, base_model=None))
    engine = started_llama(
        run.origin,
        voice,
        name=run.name,
        template=how.template,
        trust_remote_code=how.trust_remote_code,
        settings=sizes,
    )
    return {run.name: voice}, engine


def serve_chatbot(bot: Chatbot, **settings: Any) -> int:
    """Serve a chatbot of this process, beside its base if it has one."""
    chosen = ServerSettings(**settings)
    name = Path(bot.name).name
    tuned = name if is_name(name) and name != BASE else TUNED
    with (
        listening_socket(chosen) as listener,
        quiet_libraries(),
        borrowed_engine(bot.model, most_waiting=MOST_WAITING, tuned=tuned) as engine,
    ):
        lineup = Lineup(engine, dict.fromkeys(engine.models(), bot.voice))
        return serve_lineup(engine, lineup, chosen, listener)


def serve_lineup(engine: Engine, lineup: Lineup, settings: ServerSettings, listener: socket.socket) -> int:
    served = Served(engine, lineup, settings)

    def drain() -> None:
        served.draining = True

    def announce() -> None:
        inform(f"serving {', '.join(lineup.models)} at {url_of(listener)}/v1 (Ctrl-C ends it when all is answered)")

    server = server_of(make_app(served, page=page_of(served)), settings, on_start=announce, on_drain=drain)
    return run_until_stopped(server, listener)


def page_of(served: Served) -> APIRouter:
    """The page at `/`; what it asks needs the key that every client needs."""
    feedback = served.settings.feedback
    return page_router(PageSettings(FeedbackFile(feedback) if feedback else None, (Depends(served.check_client),)))


def named_runs(words: Sequence[str], how: LoadOptions) -> list[NamedRun]:
    """RUN or NAME=RUN, each read before anything is loaded. Raises ArgumentsError with all that does not fit."""
    runs = []
    unread = Problems()
    for word in words:
        with unread.noted():
            runs.append(named_run(word, how))
    unread.settle(CANNOT_SERVE)
    problems = [f"'{run.name}' is no name of a model; write NAME={run.place}" for run in runs if not is_name(run.name)]
    names = [run.name for run in runs] + ([base_name_of(runs[0])] if all(run.is_adapter for run in runs) else [])
    problems += [
        f"two models would be named '{name}'; write NAME=RUN for one of them"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if sum(not run.is_adapter for run in runs) > 1:
        problems.append("there are several whole models; one server has one of them, and adapters of it")
    if how.base_model is not None and not any(run.is_adapter for run in runs):
        problems.append(f"--base_model: {runs[0].place} is a whole model, there is no base model beside it")
    if problems:
        raise ArgumentsError(problem_list(CANNOT_SERVE, problems), problems=problems)
    # The whole model comes first.
    return sorted(runs, key=lambda run: run.is_adapter)


def named_run(word: str, how: LoadOptions) -> NamedRun:
    name, equals, place = word.partition("=")
    if not equals or os.path.exists(word):
        name, place = "", word
    origin = origin_of(place)
    if how.base_model is not None and origin.method is not None and not origin.is_whole_model:
        origin = on_other_base(origin, how.base_model)
    return NamedRun(name or name_of(origin), place, origin)


def is_name(name: str) -> bool:
    return MODEL_NAME.fullmatch(name) is not None


def name_of(origin: Origin) -> str:
    """The directory's name; of a checkpoint that of its run too."""
    path = Path(origin.name)
    place = path.absolute() if origin.directory is not None or path.is_dir() else path
    return "/".join(place.parts[-2:]) if origin.kind == "checkpoint" else place.name


def base_name_of(run: NamedRun) -> str:
    return Path(run.origin.source.name).name


def voices_of(runs: Sequence[NamedRun], how: LoadOptions) -> dict[str, Voice]:
    """The voices of all runs by name, that of the base first."""
    check_same_base(runs)
    first = runs[0]
    if first.is_adapter:
        voices = {base_name_of(first): base_voice(first, how)}
        return voices | {run.name: voice_of_run(run.place, how) for run in runs}
    voices = {first.name: voice_of_run(first.place, replace(how, base_model=None))}
    return voices | {run.name: voice_of_run(run.place, how) for run in runs[1:]}


def loaded_engine(runs: Sequence[NamedRun], how: LoadOptions, sizes: EngineSettings) -> Engine:
    """What the process of the engine begins with: the base model and all runs on it."""
    show_log()
    leave_out_warnings()
    first = runs[0]
    engine = load_engine(
        first.place,
        base_name=base_name_of(first) if first.is_adapter else first.name,
        adapter_name=first.name,
        base_model=how.base_model if first.is_adapter else None,
        trust_remote_code=how.trust_remote_code,
        bf16=how.bf16,
        settings=sizes,
    )
    for run in runs[1:]:
        engine.add_adapter(run.name, str(run.origin.directory))
    return engine


def voice_of_run(place: str | Path, how: LoadOptions) -> Voice:
    return Voice.load(place, template=how.template, trust_remote_code=how.trust_remote_code, base_model=how.base_model)


def base_voice(run: NamedRun, how: LoadOptions) -> Voice:
    """That of the base model itself; where it cannot speak alone, in the format of the run."""
    source = run.origin.source
    origin = Origin(name=source.name, kind="base model", source=source)
    try:
        return Voice.of(origin, template=how.template, trust_remote_code=how.trust_remote_code)
    except (ModelError, TemplateError):
        return voice_of_run(run.place, how)


def check_same_base(runs: Sequence[NamedRun]) -> None:
    """Raises ArgumentsError where the adapters are of several bases."""
    first = runs[0]
    for run in runs[1:]:
        if not same_base(first.origin, run.origin):
            raise ArgumentsError(
                f"{run.place} was trained on {base_and_bits(run.origin)}, and {first.place} is of "
                f"{base_and_bits(first.origin)}; a server has one base model: start another one"
            )


def base_and_bits(origin: Origin) -> str:
    return origin.source.name + ("" if origin.bits is None else f" in {origin.bits} bits")


def same_base(one: Origin, other: Origin) -> bool:
    """By the fingerprints where they are known, or else by the place; and kept in as many bits."""
    # Of an adapter from elsewhere nobody knows.
    if one.bits != other.bits and "adapter" not in (one.kind, other.kind):
        return False
    own, others = base_sha256_of(one), base_sha256_of(other)
    if is_sha256(own) and is_sha256(others):
        return own == others
    return os.path.realpath(resolve(one.source.name)) == os.path.realpath(resolve(other.source.name))


def base_sha256_of(origin: Origin) -> str:
    if origin.base_sha256 is not None:
        return origin.base_sha256
    return base_fingerprint(origin.source) if origin.method is None else ""


class VoicesOnBase:
    """Voices of runs that are loaded later: of adapters on the base model that is there."""

    def __init__(self, base: Origin, how: LoadOptions) -> None:
        self.base = base
        self.how = how

    def __call__(self, directory: Path) -> Voice:
        # Code of a model runs only where the server was started so, and then for what it was started with.
        origin = origin_of(directory, self.how.base_model)
        if origin.method is None or origin.is_whole_model or not same_base(self.base, origin):
            raise ArgumentsError(f"{directory.name} is no adapter of the base model that this server has")
        return voice_of_run(directory, self.how)
