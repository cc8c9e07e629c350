"""inference/engine/torch_engine.py, jobs.py: waiting, leaving, closing, failing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.engines.asking import VOCABULARY, Asked, adapted, ask, request_of, save_adapter
from support.small_models import small_model

from neuralchat.errors import AdapterError
from neuralchat.inference.engine import torch_engine
from neuralchat.inference.engine.interface import Ended, EngineBusyError, EngineDownError
from neuralchat.inference.engine.shelf import Shelf
from neuralchat.inference.engine.torch_engine import TorchEngine

PROMPT = [5, 17, 33]
LONG = request_of(PROMPT, max_new_tokens=1000)


@pytest.fixture
def engine() -> Iterator[TorchEngine]:
    opened = TorchEngine(Shelf(small_model("llama", VOCABULARY), "base"), most_waiting=2)
    yield opened
    opened.close(drain=False)


def test_as_many_wait_as_may(engine: TorchEngine) -> None:
    first = Asked(engine, LONG)
    first.next()
    waiting = [Asked(engine, LONG) for _ in range(2)]
    with pytest.raises(EngineBusyError, match="2 requests wait already"):
        engine.submit(LONG, print)
    status = engine.status()
    assert (status.running, status.waiting) == (1, 2)
    waiting[0].ticket.cancel()
    assert waiting[0].whole() == ([], Ended("cancelled"))
    Asked(engine, request_of(PROMPT))


def test_a_cancelled_answer_ends_within_a_step(engine: TorchEngine) -> None:
    asked = Asked(engine, LONG)
    for _ in range(3):
        asked.next()
    asked.ticket.cancel()
    asked.ticket.cancel()
    tokens, ended = asked.whole()
    assert ended == Ended("cancelled")
    assert len(tokens) < 100
    assert ask(engine, request_of(PROMPT))[1] == Ended("length")
    assert engine.status().running == 0


def test_a_closed_engine_takes_nothing_and_ends_what_runs() -> None:
    engine = TorchEngine(Shelf(small_model("llama", VOCABULARY), "base"))
    asked = [Asked(engine, request_of(PROMPT, max_new_tokens=30)) for _ in range(2)]
    engine.close()
    assert [len(one.whole()[0]) for one in asked] == [30, 30]
    with pytest.raises(EngineDownError, match="the engine is closed"):
        engine.submit(LONG, print)
    engine.close()
    assert not engine.thread.is_alive()


def test_a_closed_engine_cancels_without_drain() -> None:
    engine = TorchEngine(Shelf(small_model("llama", VOCABULARY), "base"))
    asked = [Asked(engine, LONG) for _ in range(2)]
    asked[0].next()
    engine.close(drain=False)
    assert [one.whole()[1] for one in asked] == [Ended("cancelled")] * 2
    assert len(asked[0].tokens) < 300


def test_who_asks_may_fail(engine: TorchEngine) -> None:
    called = threading.Event()

    def fail(_event: Any) -> None:
        called.set()
        raise RuntimeError("the client is gone")

    engine.submit(LONG, fail)
    assert called.wait(60)
    assert ask(engine, request_of(PROMPT))[1] == Ended("length")


def test_an_answer_that_fails_is_told_and_the_next_one_is_given(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any) -> None:
        raise ValueError("no such luck\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(torch_engine, "answer_alone", fail)
        assert ask(engine, LONG) == ([], Ended("failed", "ValueError: no such luck"))
    assert ask(engine, request_of(PROMPT))[1] == Ended("length")


def test_an_engine_that_breaks_tells_everybody(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down() -> None:
        raise SystemError("broken")

    running = Asked(engine, LONG)
    running.next()
    waiting = Asked(engine, LONG)
    monkeypatch.setattr(engine, "answer_next_alone", break_down)
    running.ticket.cancel()
    assert waiting.whole() == ([], Ended("failed", "the engine has failed"))
    engine.thread.join(60)
    with pytest.raises(EngineDownError, match="the engine has failed: SystemError: broken"):
        engine.submit(LONG, print)


def test_an_adapter_that_does_not_fit_leaves_all_as_it_was(engine: TorchEngine, tmp_path: Any) -> None:
    expected = ask(engine, request_of(PROMPT))
    fits, soft = adapted(small_model("llama", VOCABULARY)), adapted(small_model("llama_mha", VOCABULARY))
    engine.add_adapter("a", save_adapter(tmp_path / "a", fits))
    answer = ask(engine, request_of(PROMPT, "a"))
    with pytest.raises(AdapterError, match="does not fit its base model"):
        engine.add_adapter("b", save_adapter(tmp_path / "b", soft))
    with pytest.raises(AdapterError, match="is of IA3; adapters of LORA are loaded"):
        engine.add_adapter("c", save_adapter(tmp_path / "c", adapted(small_model("llama", VOCABULARY), "ia3")))
    assert engine.models() == ("base", "a")
    assert ask(engine, request_of(PROMPT, "a")) == answer
    assert ask(engine, request_of(PROMPT)) == expected
