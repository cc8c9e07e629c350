"""Many requests at once, from a program that has a model: an engine for as long as they take, and whole answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Semaphore
from typing import Any

from neuralchat.inference.engine.building import EngineSettings, engine_around
from neuralchat.inference.engine.interface import Ended, Engine, Event, Request, whole_answer
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.compat.transformers import attention_of

BASE, TUNED = "base", "tuned"


@contextmanager
def borrowed_engine(model: Any, *, most_waiting: int, tuned: str = TUNED) -> Iterator[Engine]:
    """The engine of a model that is afterwards as it was. Its names are BASE and, of an adapter, `tuned`."""
    base = base_model_of(model)
    attention, has_adapter = attention_of(base), hasattr(model, "peft_config")
    settings = EngineSettings(most_waiting=max(most_waiting, 1))
    engine = engine_around(model, BASE, tuned if has_adapter else None, settings)
    try:
        yield engine
    finally:
        engine.close(drain=False)
        if has_adapter:
            # An engine leaves adapters switched off.
            engine.shelf.use(engine.shelf.adapters[tuned])
        if attention_of(base) != attention:
            base.set_attn_implementation(attention)


def whole_answers(engine: Engine, requests: Sequence[Request]) -> list[tuple[list[int], bool]]:
    """(ids without the end token, whether one came) of each, computed together. Raises AnswerFailedError."""
    heard: list[list[Event]] = [[] for _ in requests]
    over = Semaphore(0)

    def listener(events: list[Event]) -> Any:
        def hear(event: Event) -> None:
            events.append(event)
            if isinstance(event, Ended):
                over.release()

        return hear

    tickets = []
    try:
        for request, events in zip(requests, heard, strict=True):
            tickets.append(engine.submit(request, listener(events)))
        for _ in requests:
            over.acquire()
    finally:
        for ticket in tickets:
            ticket.cancel()
    return [whole_answer(request, events) for request, events in zip(requests, heard, strict=True)]
