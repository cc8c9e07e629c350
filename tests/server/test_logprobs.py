"""Log-probabilities: the bytes of tokens join to the answer, whatever was cut."""

from __future__ import annotations

from typing import Any

import pytest
from support.engines.scripted import UNICODE
from support.live_server import LiveServer

QUESTIONS = {"unicode": UNICODE, "special": "ab", "say: Blue and green": "Blue and green"}


def joined(content: list[dict[str, Any]]) -> str:
    return bytes(byte for token in content for byte in token["bytes"]).decode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_bytes_of_tokens_are_the_answer(server: LiveServer, question: str, stream: bool) -> None:
    if stream:
        chunks = server.events(question, logprobs=True, top_logprobs=2)[:-1]
        listed = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]]
        content = [token for part in listed for token in part["content"]]
    else:
        content = server.chat(question, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert joined(content) == QUESTIONS[question]
    for token in content:
        assert set(token) == {"token", "logprob", "bytes", "top_logprobs"}
        assert token["token"] == bytes(token["bytes"]).decode("utf-8", "replace")
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0] == {name: token[name] for name in ("token", "logprob", "bytes")}
        assert token["logprob"] < 0


@pytest.mark.parametrize("stop", ["世", "🙂", "né", ", "])
def test_they_end_where_the_answer_does(server: LiveServer, stop: str) -> None:
    choice = server.chat("unicode", logprobs=True, stop=stop).json()["choices"][0]
    assert joined(choice["logprobs"]["content"]) == choice["message"]["content"] == UNICODE.partition(stop)[0]
    assert all(token["top_logprobs"] == [] for token in choice["logprobs"]["content"])


def test_a_character_of_several_tokens_has_its_bytes_apart(server: LiveServer) -> None:
    content = server.chat("say: 🙂", logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert len(content) > 1
    assert all(token["token"] == "\ufffd" * len(token["token"]) for token in content)
    assert joined(content) == "🙂"


def test_they_are_left_out_where_nobody_asks(server: LiveServer) -> None:
    assert server.chat("unicode", logprobs=False).json()["choices"][0]["logprobs"] is None
    assert server.engine.tickets[-1].request.top_logprobs is None


def test_of_a_text_they_are_as_the_older_interface_has_them(server: LiveServer) -> None:
    body = server.post("/v1/completions", {"prompt": "say: a Blue one", "logprobs": 2}).json()
    choice, logprobs = body["choices"][0], body["choices"][0]["logprobs"]
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert "".join(logprobs["tokens"]) == choice["text"]
    starts = [len("".join(logprobs["tokens"][:count])) for count in range(len(logprobs["tokens"]))]
    assert logprobs["text_offset"] == starts
    assert all(1 <= len(top) <= 2 for top in logprobs["top_logprobs"])
    assert len(logprobs["token_logprobs"]) == len(logprobs["tokens"])
