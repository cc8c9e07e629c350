"""inference/generation/streaming.py and seeding.py: a callback becomes an iterator, which computes only when asked."""

from __future__ import annotations

import doctest
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from neuralchat.inference.generation import seeding, streaming
from neuralchat.inference.generation.seeding import RandomState
from neuralchat.inference.generation.streaming import pieces_of


def answers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "neuralchat-answer"]


def counting(log: list[int], count: int = 5) -> Callable[[Callable[[str], None]], None]:
    def produce(on_text: Callable[[str], None]) -> None:
        for number in range(count):
            log.append(number)
            on_text(str(number))

    return produce


def test_pieces_come_in_order_and_nothing_is_computed_ahead() -> None:
    log: list[int] = []
    pieces = pieces_of(counting(log))
    assert log == []
    assert next(pieces) == "0"
    assert log == [0]
    assert list(pieces) == ["1", "2", "3", "4"]
    assert answers() == []


def test_pieces_without_text_are_not_handed_out() -> None:
    assert list(pieces_of(lambda on_text: [on_text(text) for text in ("", "a", "", "")] and None)) == ["a"]


def test_a_reader_that_stops_ends_the_function() -> None:
    log: list[int] = []
    for piece in pieces_of(counting(log)):
        if piece == "2":
            break
    assert log == [0, 1, 2]
    assert answers() == []


def test_an_iterator_that_was_never_read_computes_nothing() -> None:
    log: list[int] = []
    pieces_of(counting(log)).close()
    assert log == []
    assert answers() == []


def test_errors_reach_the_reader() -> None:
    def produce(on_text: Callable[[str], None]) -> None:
        on_text("a")
        raise ValueError("no more memory")

    pieces = pieces_of(produce)
    assert next(pieces) == "a"
    with pytest.raises(ValueError, match="no more memory"):
        next(pieces)
    assert answers() == []


def test_ctrl_c_while_computing_ends_the_function_before_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes while the reader waits; the context must outlast the computing."""
    events: list[str] = []

    @contextmanager
    def during() -> Iterator[None]:
        events.append("in")
        try:
            yield
        finally:
            events.append("out")

    def produce(on_text: Callable[[str], None]) -> None:
        try:
            on_text("a")
            on_text("b")
        finally:
            events.append("ended")

    pieces = pieces_of(produce, during)
    assert next(pieces) == "a"
    taker: Any = pieces.gi_frame.f_locals["self"]

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(taker.readers_turn, "acquire", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(pieces)
    assert events == ["in", "out", "in", "ended", "out"]
    assert answers() == []


def test_the_random_state_of_an_answer_is_its_own() -> None:
    def produce(on_text: Callable[[str], None]) -> None:
        for _ in range(3):
            on_text(str(torch.rand(1).item()))

    torch.manual_seed(1)
    expected_outside = [torch.rand(1).item() for _ in range(3)]
    torch.manual_seed(7)
    expected_inside = [str(torch.rand(1).item()) for _ in range(3)]
    torch.manual_seed(1)
    state, outside, inside = RandomState(7), [], []
    for piece in pieces_of(produce, state.current):
        inside.append(piece)
        outside.append(torch.rand(1).item())
    assert inside == expected_inside
    assert outside == expected_outside


def test_without_a_seed_the_generators_of_the_process_are_used() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2).tolist()
    torch.manual_seed(3)
    with RandomState(None).current():
        first = torch.rand(1).item()
    assert [first, torch.rand(1).item()] == expected


def test_doctests() -> None:
    for module in (streaming, seeding):
        outcome = doctest.testmod(module, extraglobs={"torch": torch})
        assert outcome.attempted >= 1
        assert outcome.failed == 0
