"""inference/engine/process.py: an engine in a process of its own, its death, and the one after it."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engines.asking import VOCABULARY, Asked, adapted, ask, ask_together, assert_same, request_of, save_adapter
from support.forks import start_server
from support.small_models import small_model

from neuralchat.errors import ArgumentsError, ModelError
from neuralchat.inference.engine.building import EngineSettings, engine_around
from neuralchat.inference.engine.interface import Ended, EngineBusyError, EngineDownError, UnknownModelError
from neuralchat.inference.engine.process import ProcessEngine

PROMPT = [5, 17, 33]
SETTINGS = EngineSettings(memory_tokens=2048, most_waiting=2, most_running=2)


def make() -> Any:
    """Runs in the new process."""
    return engine_around(small_model("llama", VOCABULARY), "base", settings=SETTINGS)


def make_nothing(message: str) -> Any:
    raise ModelError(message)


@pytest.fixture(scope="module")
def engine() -> Iterator[ProcessEngine]:
    start_server()
    opened = ProcessEngine(make, start_method="forkserver")
    with pytest.raises(EngineDownError, match="is loading its models"):
        opened.submit(request_of(PROMPT), print)
    opened.wait_ready(120)
    yield opened
    opened.close(drain=False)


@pytest.mark.slow
def test_a_process_answers_as_the_engine_in_it(engine: ProcessEngine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The adapter lies where the engine finds it again when it has died."""
    directory = tmp_path_factory.mktemp("adapters") / "a"
    engine.add_adapter("tuned", save_adapter(directory, adapted(small_model("llama", VOCABULARY))))
    assert engine.models() == ("base", "tuned")
    requests = [request_of(PROMPT, name, temperature=0.8, seed=5) for name in ("base", "tuned")]
    inside = make()
    inside.add_adapter("tuned", str(directory))
    # How requests meet in a step, and with it how sums are rounded, hangs on when they arrive.
    for (one, end), (other, _) in zip(ask_together(engine, requests), ask_together(inside, requests), strict=True):
        assert assert_same(one, other)
        assert end == Ended("length")
    inside.close()
    assert engine.status().generated_tokens_total == 16
    with pytest.raises(UnknownModelError, match="no model 'other'"):
        engine.submit(request_of(PROMPT, "other"), print)
    with pytest.raises(ArgumentsError, match="the prompt is empty"):
        engine.submit(request_of([]), print)
    running = [Asked(engine, request_of(PROMPT, max_new_tokens=1000)) for _ in range(2)]
    for one in running:
        one.next()
    waiting = [Asked(engine, request_of(PROMPT)) for _ in range(2)]
    with pytest.raises(EngineBusyError):
        engine.submit(request_of(PROMPT), print)
    for one in running:
        one.ticket.cancel()
        assert one.whole()[1].reason == "cancelled"
    assert [one.whole()[1] for one in waiting] == [Ended("length")] * 2
    assert not engine.answers
    assert not engine.replies


@pytest.mark.slow
def test_a_dead_process_fails_its_answers_and_the_next_one_answers(engine: ProcessEngine, tmp_path: Path) -> None:
    if "later" not in engine.models():
        directory = save_adapter(tmp_path / "b", adapted(small_model("llama", VOCABULARY), seed=2))
        engine.add_adapter("later", directory)
    names = engine.models()
    expected = ask(engine, request_of(PROMPT, "later"))
    asked = Asked(engine, request_of(PROMPT, max_new_tokens=1500))
    asked.next()
    os.kill(engine.child.process.pid, signal.SIGKILL)
    assert asked.whole()[1] == Ended("failed", "the process of the engine has died; it is started again")
    with pytest.raises(EngineDownError, match=r"has died|loading its models"):
        engine.submit(request_of(PROMPT), print)
    assert engine.status().running == 0
    begun = time.monotonic()
    engine.wait_ready(120)
    assert engine.models() == names
    assert ask(engine, request_of(PROMPT, "later")) == expected
    assert time.monotonic() - begun < 120


@pytest.mark.slow
def test_what_cannot_be_loaded_is_told() -> None:
    start_server()
    engine = ProcessEngine(functools.partial(make_nothing, "no such model"), start_method="forkserver")
    with pytest.raises(ModelError, match="no such model"):
        engine.wait_ready(120)
    with pytest.raises(EngineDownError):
        engine.submit(request_of(PROMPT), print)
    engine.close()
    assert not engine.child.process.is_alive()
    assert not engine.thread.is_alive()
