"""/v1/chat/completions: answers whole and in chunks, as OpenAI's interface has them."""

from __future__ import annotations

from typing import Any

import pytest
from support.engines.scripted import UNICODE
from support.live_server import LiveServer


def deltas(chunks: list[Any], index: int = 0) -> list[dict[str, Any]]:
    found = [choice for chunk in chunks[:-1] for choice in chunk["choices"] if choice["index"] == index]
    return [choice["delta"] for choice in found]


def text_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(chunks, index))


def test_a_whole_answer(server: LiveServer) -> None:
    response = server.chat("Name a colour.", model="support")
    body = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert set(body) == {"id", "object", "created", "model", "choices", "usage"}
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "support"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Name a colour.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_tokens_are_counted_exactly(server: LiveServer) -> None:
    rendered = server.post("/v1/render", {"messages": [{"role": "user", "content": "say: Blue."}]}).json()
    usage = server.chat("say: Blue.").json()["usage"]
    # The end token is one of the answer's.
    answer = len(server.engine.ids("Blue.")) + 1
    assert usage["prompt_tokens"] == rendered["count"] == len(rendered["ids"])
    assert (usage["completion_tokens"], usage["total_tokens"]) == (answer, rendered["count"] + answer)
    assert usage["prompt_tokens_details"] == {"cached_tokens": rendered["count"] // 2}


def test_a_stream(server: LiveServer) -> None:
    chunks = server.events("say: Blue and green.")
    assert chunks[-1] == "[DONE]"
    assert len({chunk["id"] for chunk in chunks[:-1]}) == 1
    assert {chunk["object"] for chunk in chunks[:-1]} == {"chat.completion.chunk"}
    assert len({(chunk["created"], chunk["model"]) for chunk in chunks[:-1]}) == 1
    assert not any("usage" in chunk for chunk in chunks[:-1])
    # The role is in the first chunk only.
    assert [("role" in delta) for delta in deltas(chunks)] == [True] + [False] * (len(chunks) - 2)
    assert deltas(chunks)[0]["role"] == "assistant"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert chunks[-2]["choices"][0]["delta"] == {}
    assert text_of(chunks) == "Blue and green."
    assert len(chunks) > 6


def test_the_head_of_a_stream(server: LiveServer) -> None:
    response = server.chat(stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert "server" not in response.headers


def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(server: LiveServer) -> None:
    chunks = server.events("say: Blue.", stream_options={"include_usage": True})
    last = chunks[-2]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(server.engine.ids("Blue.")) + 1
    assert all(chunk["usage"] is None for chunk in chunks[:-2])
    whole = server.chat("say: Blue.").json()["usage"]
    assert last["usage"] == whole
    assert not any("usage" in chunk for chunk in server.events(stream_options={"include_usage": False})[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers(server: LiveServer, stream: bool) -> None:
    """Each is the one that its own seed gives alone."""
    asked: dict[str, Any] = {"temperature": 1, "n": 3, "seed": 5}
    if stream:
        chunks = server.events("x", **asked)
        texts = [text_of(chunks, index) for index in range(3)]
        assert len({chunk["id"] for chunk in chunks[:-1]}) == 1
        assert all("role" in deltas(chunks, index)[0] for index in range(3))
    else:
        choices = server.chat("x", **asked).json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        texts = [choice["message"]["content"] for choice in choices]
    alone = [
        server.chat("x", temperature=1, seed=seed).json()["choices"][0]["message"]["content"] for seed in (5, 6, 7)
    ]
    assert texts == alone
    assert len(set(texts)) == 3


def test_the_same_seed_is_the_same_answer(server: LiveServer) -> None:
    said = [server.chat("x", temperature=1, seed=seed).json()["choices"][0]["message"] for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_characters_that_tokens_cut_are_whole(server: LiveServer) -> None:
    chunks = server.events("unicode")
    pieces = [delta.get("content") or "" for delta in deltas(chunks)]
    assert "".join(pieces) == UNICODE
    assert not any("\ufffd" in piece for piece in pieces)
    assert server.chat("unicode").json()["choices"][0]["message"]["content"] == UNICODE


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_at_its_limit(server: LiveServer, field: str, stream: bool) -> None:
    if stream:
        chunks = server.events("long", **{field: 5})
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    else:
        body = server.chat("long", **{field: 5}).json()
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 5


def test_both_limits_may_be_given_where_they_are_the_same(server: LiveServer) -> None:
    body = server.chat("long", max_tokens=4, max_completion_tokens=4).json()
    assert body["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("stop", ["ee", ["never", "green"], [" and g"], "e and gre"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_right_before_it(server: LiveServer, stop: Any, stream: bool) -> None:
    words = "Blue and green, say I."
    first = stop if isinstance(stop, str) else stop[-1]
    if stream:
        chunks = server.events(f"say: {words}", stop=stop)
        text, reason = text_of(chunks), chunks[-2]["choices"][0]["finish_reason"]
    else:
        choice = server.chat(f"say: {words}", stop=stop).json()["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    assert text == words.partition(first)[0]
    assert reason == "stop"


def test_at_a_stop_string_the_engine_stops(server: LiveServer) -> None:
    server.chat("slow", stop="word word", max_tokens=400)
    ticket = server.engine.tickets[-1]
    assert ticket.ended.wait(5)
    assert ticket.left.is_set()


def test_a_stop_string_that_never_comes_takes_nothing_away(server: LiveServer) -> None:
    assert text_of(server.events("say: Blue #", stop=["##", "Blue #x"])) == "Blue #"


NULLS = (
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "stream", "stream_options", "seed",
    "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "tools", "tool_choice",
    "response_format", "user", "model", "parallel_tool_calls", "functions", "anything",
)  # fmt: skip


def test_null_is_absent(server: LiveServer) -> None:
    assert server.chat("say: Blue.", **dict.fromkeys(NULLS)).json()["choices"][0]["message"]["content"] == "Blue."


def test_what_a_request_says_reaches_the_engine(server: LiveServer) -> None:
    said = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": -0.5,
        "repetition_penalty": 1.2, "seed": 9,
    }  # fmt: skip
    server.chat("x", max_tokens=6, logit_bias={"5": 3, "7": -100}, model="base", **said)
    request = server.engine.tickets[-1].request
    assert {name: getattr(request.sampling, name) for name in said} == said
    assert request.sampling.max_new_tokens == 6
    assert request.logit_bias == {5: 3.0, 7: -100.0}
    assert (request.model, request.top_logprobs) == ("base", None)


def test_what_a_request_does_not_say_is_as_the_server_was_started(server: LiveServer) -> None:
    server.chat("x")
    request = server.engine.tickets[-1].request
    assert request.sampling == server.served.settings.sampling
    assert request.model == "support"


@pytest.mark.parametrize(
    ("field", "value", "name", "expected"),
    [("top_k", -1, "top_k", 0), ("top_p", 0, "top_p", 1e-9), ("temperature", 0, "temperature", 0)],
)
def test_values_of_other_programs_mean_what_they_mean_there(
    server: LiveServer, field: str, value: Any, name: str, expected: float
) -> None:
    assert server.chat("x", **{field: value}).status_code == 200
    assert getattr(server.engine.tickets[-1].request.sampling, name) == expected


def test_words_about_who_asks_change_nothing(server: LiveServer) -> None:
    about = {"user": "u-1", "safety_identifier": "s", "metadata": {"a": "b"}, "prompt_cache_key": "k", "store": False}
    plain = server.chat("Name a colour.").json()["choices"]
    assert server.chat("Name a colour.", service_tier="auto", modalities=["text"], **about).json()["choices"] == plain


def test_content_in_parts_is_one_text(server: LiveServer) -> None:
    parts = [{"type": "text", "text": "say: Bl"}, {"type": "text", "text": "ue."}]
    messages = [{"role": "user", "content": parts}]
    assert server.chat(messages=messages).json()["choices"][0]["message"]["content"] == "Blue."


def test_a_begun_answer_is_gone_on_with(server: LiveServer) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "I say"}]
    shown = server.post("/v1/render", {"messages": messages}).json()
    assert shown["text"].endswith("<|start|>assistant\nI say")
    assert server.chat(messages=messages).status_code == 200
    assert list(server.engine.tickets[-1].request.prompt_ids) == shown["ids"]


def test_a_failure_in_the_middle_of_a_stream_is_told_in_it(server: LiveServer) -> None:
    chunks = server.events("fail")
    assert "[DONE]" not in chunks
    assert chunks[-1]["error"]["message"] == "the engine has crashed"
    assert set(chunks[-1]["error"]) == {"message", "type", "param", "code"}
    assert chunks[-2]["choices"][0]["delta"]["content"]


def test_special_tokens_that_a_model_says_are_no_text(server: LiveServer) -> None:
    assert server.chat("special").json()["choices"][0]["message"]["content"] == "ab"
