"""evaluation/scoring/judge.py beside a scripted endpoint: both orders, ties, what it costs, and what goes wrong."""

from __future__ import annotations

import doctest
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.chatbots.silent_bot import QUESTIONS

from neuralchat.data.records import Turn
from neuralchat.errors import ArgumentsError
from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.comparison import Measured, compare_pairs
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.scoring import judge as judging
from neuralchat.evaluation.scoring.judge import Judge
from neuralchat.inference.terminal.server_bot import RefusingServerError

ITEMS = [Item(f"row {place}", (Turn("user", f"Question {place}?"),), "good") for place in range(12)]


def said(name: str, texts: list[str]) -> Measured:
    return Measured(name, {place: Answered(text, 1, True) for place, text in enumerate(texts)})


@contextmanager
def endpoint(reply: Callable[[str, str], tuple[int, str]]) -> Iterator[str]:
    """The address of one whose `reply` is given the two answers and says (status, verdict)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send(200, {"data": [{"id": "judge-1"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = body["messages"][-1]["content"]
            one = asked.partition("[Answer A]\n")[2].partition("\n\n[Answer B]\n")
            status, verdict = reply(one[0], one[2].partition("\n\n[Your verdict")[0])
            choice = {"message": {"role": "assistant", "content": verdict}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 100, "completion_tokens": 7}
            self.send(status, {"choices": [choice], "usage": usage, "error": {"message": verdict}})

        def send(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_what_is_better_in_both_orders_is_preferred() -> None:
    first = said("base", ["bad"] * 9 + ["good", "same", "bad"])
    second = said("run", ["good"] * 9 + ["bad", "same", "bad too"])
    order = {"good": 2, "bad": 1, "bad too": 1}

    def fair(one: str, two: str) -> tuple[int, str]:
        sign = order[one] - order[two]
        return 200, "I compared them.\n" + ("A" if sign > 0 else "B" if sign < 0 else "TIE")

    with endpoint(fair) as url:
        judge = Judge(url, None)
        judged = judge.judged(ITEMS, first, second)
    assert list(judged.verdicts.values()) == [1] * 9 + [-1, 0, 0]
    assert (judged.swayed, judged.unread) == (0, 0)
    # The two that are the same were not asked.
    assert (judge.requests, judge.prompt_tokens, judge.answer_tokens) == (22, 2200, 154)
    assert judge.cost() == "the judge judge-1 took 22 requests, 2,200 tokens of prompts and 154 of answers"
    (row,) = compare_pairs(ITEMS, [judge.measure(judged, first, second)], [(first, second)])
    assert (row.lost, row.gained, row.questions, row.title) == (1, 9, 12, "preferred by judge-1")
    # scipy.stats.binomtest(1, 10).pvalue
    assert row.p == pytest.approx(0.021484375)


def test_a_judge_that_favours_a_place_prefers_nothing() -> None:
    first, second = said("base", ["x"] * 12), said("run", ["y"] * 12)
    with endpoint(lambda _one, _two: (200, "A")) as url:
        judged = Judge(url, "judge-1").judged(ITEMS, first, second)
    assert set(judged.verdicts.values()) == {0}
    assert judged.swayed == 12


def test_replies_without_a_verdict_are_ties_and_are_counted() -> None:
    with endpoint(lambda one, _two: (200, "A" if one == "x" else "They differ.")) as url:
        judged = Judge(url, None).judged(ITEMS[:3], said("base", ["x"] * 3), said("run", ["y"] * 3))
    assert judged.verdicts == {0: 0, 1: 0, 2: 0}
    assert judged.unread == 3


def test_an_endpoint_that_refuses_is_told() -> None:
    with endpoint(lambda _one, _two: (401, "no key")) as url:
        judge = Judge(url, None)
        with pytest.raises(RefusingServerError, match=r"refuses: no key \(NEURALCHAT_API_KEY holds the key\)"):
            judge.judged(ITEMS[:1], said("base", ["x"]), said("run", ["y"]))
    with pytest.raises(RefusingServerError, match="no server answers at"):
        Judge(url, None)


def test_where_the_endpoint_fails_all_else_is_told_first(
    run_evaluate: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(lambda _one, _two: (200, "B")) as url:
        run_evaluate(QUESTIONS, ["8", "é"], ["no", "no"], "--judge_url", url)
    assert "the judge judge-1 took 4 requests, 400 tokens of prompts and 28 of answers" in capsys.readouterr().out
    with (
        endpoint(lambda _one, _two: (500, "broken")) as url,
        pytest.raises(RefusingServerError, match="the server refuses: broken"),
    ):
        run_evaluate(QUESTIONS, ["8", "é"], ["no", "no"], "--judge_url", url)
    assert "1 of 2 answers state the right fact (50%, 9 to 91 with 95 % confidence)" in capsys.readouterr().out
    with pytest.raises(ArgumentsError, match="--judge_model names a model of --judge_url, which is missing"):
        run_evaluate(QUESTIONS, ["8", "é"], ["no", "no"], "--judge_model", "judge-1")


def test_doctests() -> None:
    assert doctest.testmod(judging).failed == 0
