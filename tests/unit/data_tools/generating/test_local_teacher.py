"""A model on this machine as a teacher: requests are computed together, and the journal is that of an endpoint."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.engines.scripted import ScriptedEngine
from support.teachers.scripted_teacher import answer_to

from neuralchat.cli import main
from neuralchat.data.records import Turn
from neuralchat.data_tools.generating.teaching.exchange import TeacherReply
from neuralchat.data_tools.generating.teaching.local_teacher import LocalReply, LocalTeacher
from neuralchat.errors import ArgumentsError
from neuralchat.inference.chatbot import Chatbot
from neuralchat.inference.engine.interface import Ended, Event, Request
from neuralchat.inference.sampling import Sampling

END = 0
PAUSE_S = 0.01


@dataclass
class LetterPrompt:
    ids: list[int]
    max_new_tokens: int


class LetterVoice:
    """A token is a letter."""

    end_ids = (END,)

    def words(self, ids: Sequence[int], *, finished: bool) -> str:
        assert finished
        return "".join(map(chr, ids))


class ScriptedModel:
    """In the place of a Chatbot. `before_answer`: (model, the how manieth answer) -> pauses before it comes."""

    name = "model-1"
    voice = LetterVoice()
    engine_request = Chatbot.engine_request

    def __init__(self, before_answer: Callable[[ScriptedModel, int], Iterator[float]] | None = None) -> None:
        self.begun = 0
        self.before_answer = before_answer
        self.engine = ScriptedEngine(None, names=("base", "model-1"))
        self.engine.say = self.say

    def prompt(self, turns: Sequence[Turn], sampling: Sampling) -> LetterPrompt:
        text = turns[0].content
        if "[classification]" in text[-200:]:
            raise ArgumentsError("it is too long")
        return LetterPrompt(list(map(ord, text)), 100_000)

    @contextmanager
    def many(self, count: int) -> Iterator[ScriptedEngine]:
        self.engine.room = count
        yield self.engine
        self.engine.close(drain=False)

    def say(self, request: Request) -> Iterator[int | float | Ended]:
        assert request.model == "model-1"
        self.begun += 1
        number = self.begun
        yield PAUSE_S
        if self.before_answer is not None:
            yield from self.before_answer(self, number)
        yield from map(ord, answer_to("".join(map(chr, request.prompt_ids))))
        yield END


def generate(monkeypatch: pytest.MonkeyPatch, model: ScriptedModel, output: Path) -> int:
    monkeypatch.setattr(Chatbot, "load", lambda _name: model)
    return main(["data", "generate", "--teacher", "run", "--output", str(output), "--count", "12"])


def replies_in(output: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, Path(f"{output}.journal").read_text().splitlines())
    return [line for line in lines if "reply" in line]


def test_requests_are_computed_together_and_a_second_run_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits, on_way = threading.Event(), []
    result = LocalReply.result

    def result_with_others_on_way(reply: LocalReply) -> TeacherReply:
        on_way.append(len(model.engine.running))
        waits.set()
        try:
            return result(reply)
        finally:
            waits.clear()

    def wait_for_the_program(_model: ScriptedModel, _number: int) -> Iterator[float]:
        """Until it has asked for all that it may before it waits."""
        while not waits.is_set():
            yield PAUSE_S

    monkeypatch.setattr(LocalReply, "result", result_with_others_on_way)
    model, output = ScriptedModel(wait_for_the_program), tmp_path / "a.jsonl"
    assert generate(monkeypatch, model, output) == 0
    whole = output.read_bytes()
    assert whole.count(b"\n") >= 12
    assert b'"teacher": "model-1"' in whole
    assert max(on_way) > 4
    seeds = [ticket.request.sampling.seed for ticket in model.engine.tickets]
    # Equal questions would be drawn alike otherwise.
    assert len(set(seeds)) == len(seeds)
    again = ScriptedModel()
    assert generate(monkeypatch, again, output) == 0
    assert output.read_bytes() == whole
    assert again.engine.tickets == []
    assert "tokens" in capsys.readouterr().out


def test_what_has_been_computed_when_it_is_stopped_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_when_others_are_over(model: ScriptedModel, number: int) -> Iterator[float]:
        # The first is the one that the program waits for.
        others = model.engine.tickets[1:]
        while number == 1 and not (others and all(ticket.ended.is_set() for ticket in others)):
            yield PAUSE_S
            others = model.engine.tickets[1:]
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
            while True:
                yield PAUSE_S

    undisturbed, stopped = tmp_path / "undisturbed.jsonl", tmp_path / "stopped.jsonl"
    assert generate(monkeypatch, ScriptedModel(), undisturbed) == 0
    over, hear = [], LocalReply.hear

    def hear_and_count(reply: LocalReply, event: Event) -> None:
        if isinstance(event, Ended) and event.reason == "stop":
            over.append(reply.number)
        hear(reply, event)

    monkeypatch.setattr(LocalReply, "hear", hear_and_count)
    assert generate(monkeypatch, ScriptedModel(stop_when_others_are_over), stopped) == 130
    kept = len(replies_in(stopped))
    assert sorted(over) == sorted(reply["reply"] for reply in replies_in(stopped))
    assert kept > 0
    again = ScriptedModel()
    assert generate(monkeypatch, again, stopped) == 0
    assert stopped.read_bytes() == undisturbed.read_bytes()
    assert len(again.engine.tickets) <= len(replies_in(stopped)) - kept


@pytest.mark.parametrize("moment", ["taken", "closing"])
def test_an_answer_that_ends_about_when_it_is_stopped_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Ctrl-C came after an answer was taken from the queue and before it was written down, or as the engine closed."""
    model, output = ScriptedModel(), tmp_path / "a.jsonl"
    settle, over = LocalTeacher.settle, []

    def settle_or_stop(teacher: LocalTeacher, reply: LocalReply) -> None:
        over.append(reply.number)
        if len(over) == 1:
            if moment == "closing":
                # Not before the teacher closes the engine does it end.
                teacher.resources.callback(reply.hear, reply.heard.pop())
            raise KeyboardInterrupt
        settle(teacher, reply)

    monkeypatch.setattr(LocalTeacher, "settle", settle_or_stop)
    assert generate(monkeypatch, model, output) == 130
    assert over[0] in [reply["reply"] for reply in replies_in(output)]


def test_a_request_whose_answer_fails_is_left_out_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, output = ScriptedModel(), tmp_path / "a.jsonl"
    said = model.engine.say

    def say(request: Request) -> Iterator[int | float | Ended]:
        if len(model.engine.tickets) == 3:
            yield Ended("failed", "no memory is left")
        yield from said(request)

    model.engine.say = say
    assert generate(monkeypatch, model, output) == 0
    lines = [json.loads(line) for line in Path(f"{output}.journal").read_text().splitlines()]
    failed = [line for line in lines if "failed" in line]
    assert "no memory is left" in failed[0]["why"]
    assert [line["given_up"] for line in lines if "given_up" in line] == [line["failed"] for line in failed]


def test_a_local_teacher_has_no_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--teacher", "run", "--output", str(tmp_path / "a.jsonl"), "--token_budget", "100"]
    assert main(["data", "generate", *words]) == 2
    assert "--token_budget: for --base_url alone" in capsys.readouterr().err
