"""inference/engine/process_child.py: how the events of answers leave the process of an engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest

from neuralchat.inference.engine.interface import Ended, Event, Request, Token
from neuralchat.inference.engine.process_child import TOKENS_TOGETHER, ChildDesk, Submit

REQUEST = Request(prompt_ids=(1,), model="base")


class WholeAnswers:
    """Answers at once: `count` tokens, and an end."""

    def __init__(self, count: int, reason: Any) -> None:
        self.events: list[Event] = [*map(Token, range(count)), Ended(reason)]

    def submit(self, _request: Request, on_event: Callable[[Event], None]) -> object:
        for event in self.events:
            on_event(event)
        return object()


def messages(engine: Any, request: Request, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, Event]]]:
    """The lists of events that are put for the pipe, one after another."""
    desk, put = ChildDesk(None, engine), []
    monkeypatch.setattr(desk.writer, "put", put.append)
    desk.submit(Submit(7, request))
    assert not desk.tickets
    desk.writer.waiting.put(None)
    return [item for item in put if isinstance(item, list)]


@pytest.mark.parametrize("count", [0, 1, 2, TOKENS_TOGETHER, TOKENS_TOGETHER + 1, 3 * TOKENS_TOGETHER])
@pytest.mark.parametrize("reason", ["stop", "cancelled"])
def test_tokens_that_may_come_together_do_so_behind_the_first(
    count: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = WholeAnswers(count, reason)
    apart = messages(engine, REQUEST, monkeypatch)
    assert apart == [[(7, event)] for event in engine.events]
    together = messages(engine, dataclasses.replace(REQUEST, may_come_together=True), monkeypatch)
    assert [*chain(*together)] == [*chain(*apart)]
    assert len(together[0]) == 1
    assert len(together) <= 2 + count // TOKENS_TOGETHER
