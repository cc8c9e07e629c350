"""--engine: which engine answers. `auto` is torch, which knows every family and method."""

from __future__ import annotations

import functools
import importlib.util
import os

from neuralchat.console import inform
from neuralchat.console.waiting import waiting
from neuralchat.errors import ArgumentsError
from neuralchat.inference.engine.building import DEFAULT_SETTINGS, EngineSettings, memory_tokens_for
from neuralchat.inference.engine.llama.exported import exported_model
from neuralchat.inference.engine.llama.llama_engine import LlamaSizes, llama_engine
from neuralchat.inference.engine.llama.llama_server import INSTALL
from neuralchat.inference.engine.process import ProcessEngine
from neuralchat.inference.loading import config_of
from neuralchat.inference.origin import Origin
from neuralchat.inference.voice import Voice

# Of llama.cpp's keys and values.
FP32_BYTES = 4


def wants_llama(engine: str, bf16: bool | None = None) -> bool:
    """Raises ArgumentsError where the package of the engine is not there."""
    check_engine(engine, bf16)
    if engine == "auto":
        inform("answered by torch, which knows every family and method (--engine)")
    return engine == "llamacpp"


def check_engine(engine: str, bf16: bool | None) -> None:
    if engine == "llamacpp" and bf16 is not None:
        raise ArgumentsError(
            "--bf16 is for --engine torch; llamacpp has the weights as the run or the base model has them"
        )
    if engine == "llamacpp" and importlib.util.find_spec("xllamacpp") is None:
        raise ArgumentsError(f"--engine llamacpp: {INSTALL}")


def started_llama(
    origin: Origin,
    voice: Voice,
    *,
    name: str,
    template: str | None = None,
    trust_remote_code: bool = False,
    settings: EngineSettings = DEFAULT_SETTINGS,
) -> ProcessEngine:
    """The engine of one model in a process of its own, since llama.cpp ends its process over some files; it is ready.

    Raises AdapterError or ModelError for what llama.cpp does not know, and EngineStartError.
    """
    found = exported_model(origin, voice, template=template, trust_remote_code=trust_remote_code, waiting=waiting)
    sizes = LlamaSizes(
        positions=found.positions,
        rows=found.rows,
        memory_tokens=settings.memory_tokens
        or memory_tokens_for(config_of(origin, trust_remote_code=trust_remote_code), bytes_per_number=FP32_BYTES),
        most_running=settings.most_running,
        most_waiting=settings.most_waiting,
    )
    inform(f"{name}: answered by llama.cpp, {found.type} ({sizes.slots} at a time, {sizes.context} tokens each)")
    engine = ProcessEngine(functools.partial(llama_engine, found.file, name, sizes, usable_cpus()))
    try:
        engine.wait_ready()
    except BaseException:
        engine.close(drain=False)
        raise
    return engine


def usable_cpus() -> int:
    """As torch counts its threads."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    # macOS has no affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
