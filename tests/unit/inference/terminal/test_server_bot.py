"""inference/terminal/server_bot.py: a conversation with a model behind a server, over a real connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.chatbots.page_backend import Backend, served

from neuralchat.data.records import Turn
from neuralchat.errors import ArgumentsError
from neuralchat.inference.sampling import Sampling
from neuralchat.inference.terminal.server_bot import RefusingServerError, ServerBot, client_of, is_server_address


@pytest.fixture(scope="module")
def server() -> Iterator[Backend]:
    with served(Backend()) as backend:
        yield backend


@pytest.fixture
def backend(server: Backend) -> Iterator[Backend]:
    server.requests.clear()
    yield server
    server.key = ""


def test_a_conversation(backend: Backend, said: list[str]) -> None:
    bot = ServerBot.connect(backend.url)
    # What was trained is asked, not its base; and which one it is, is told.
    assert bot.name == "runs/support"
    assert said == ["the server has runs/support, smollm2; asking runs/support (--model names another)"]
    bot.system = "Be brief."
    pieces = list(bot.stream("one \u2028 two", max_new_tokens=9, temperature=0.5, seed=4, top_k=3))
    assert len(pieces) > 1
    assert "".join(pieces) == "runs/support heard: one \u2028 two"
    list(bot.stream("three"))
    assert bot.history[-1] == Turn("assistant", "runs/support heard: three")
    first, second = backend.requests
    assert first == {
        "model": "runs/support",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one \u2028 two"}],
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_k": 3,
        "seed": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "seed" not in second
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert bot.last is not None
    assert bot.last.finished
    assert bot.said_tokens() == (9 + len(bot.last.token_ids), None)
    list(bot.stream("long"))
    assert not bot.last.finished


def test_the_base_model_beside_it(backend: Backend) -> None:
    bot = ServerBot.connect(backend.url, model="runs/support")
    with bot.untuned() as base:
        assert "".join(base.stream("one")) == "smollm2 heard: one"
        with pytest.raises(ArgumentsError, match="no base model beside smollm2"), base.untuned():
            pass
    assert bot.history == []


def test_leaving_an_answer_closes_the_connection(backend: Backend) -> None:
    bot = ServerBot.connect(backend.url)
    left = backend.left
    stream: Any = bot.stream("slow")
    assert next(stream) == "word "
    stream.close()
    assert bot.history == []
    for _ in range(100):
        if backend.left > left:
            break
        list(bot.stream("wait"))
    assert backend.left == left + 1


def test_too_long_a_conversation_loses_its_first_turns_and_says_so(backend: Backend, said: list[str]) -> None:
    backend.most_messages = 3
    try:
        bot = ServerBot.connect(backend.url, model="smollm2")
        for question in ("one", "two", "three"):
            list(bot.stream(question))
        assert [message["content"] for message in backend.requests[-1]["messages"]] == [
            "two", "smollm2 heard: two", "three",
        ]  # fmt: skip
        assert said == [
            "the conversation has become longer than the model can follow; its first 2 turn(s) are left out of this "
            "answer (/new begins a new one)"
        ]
        # They are left out, not forgotten.
        assert len(bot.history) == 6
    finally:
        backend.most_messages = None


def test_many_conversations(backend: Backend) -> None:
    bot = ServerBot.connect(backend.url, model="smollm2")
    answers = bot.answers([[Turn("user", f"q{number}")] for number in range(20)], Sampling())
    assert [answer.text for answer in answers] == [f"smollm2 heard: q{number}" for number in range(20)]
    assert len(backend.requests) == 20


def test_a_busy_server_is_asked_again(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    from neuralchat.inference.terminal import server_bot

    waited: list[float] = []
    monkeypatch.setattr(server_bot.time, "sleep", waited.append)
    bot = ServerBot.connect(backend.url, model="smollm2")
    with pytest.raises(RefusingServerError, match="8 requests are waiting; ask again in 7 s"):
        bot.answers([[Turn("user", "busy")]], Sampling())
    assert waited == [7.0] * server_bot.MOST_TRIES
    # In a conversation the person decides.
    with pytest.raises(RefusingServerError, match="8 requests are waiting"):
        list(bot.stream("busy"))


def test_errors_are_told(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    bot = ServerBot.connect(backend.url, model="smollm2")
    with pytest.raises(RefusingServerError, match="the server refuses: the prompt has 5000 tokens"):
        list(bot.stream("too long"))
    with pytest.raises(RefusingServerError, match="the engine has crashed"):
        list(bot.stream("break"))
    assert bot.history == []
    with pytest.raises(
        ArgumentsError, match="--model llama: the server has no such model; it has runs/support, smollm2"
    ):
        ServerBot.connect(backend.url, model="llama")
    with pytest.raises(RefusingServerError, match="no server answers at http://127"):
        ServerBot.connect("http://127.0.0.1:9")
    with pytest.raises(RefusingServerError, match="the server refuses: Not Found"):
        ServerBot.connect(f"{backend.url}nowhere")

    backend.key = "the-key"
    with pytest.raises(RefusingServerError, match=r"the key is wrong \(NEURALCHAT_API_KEY holds the key\)"):
        ServerBot.connect(backend.url)
    monkeypatch.setenv("NEURALCHAT_API_KEY", "the-key")
    assert ServerBot.connect(f"{backend.url}v1/", model="smollm2").name == "smollm2"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://", "is no address"),
        ("http://host:port", "is no address"),
        ("http://host:99999", "is no address"),
        ("http://me:secret@host", "takes no password"),
        ("http://host/?key=a", "leave out what follows"),
    ],
)
def test_addresses_that_are_none(address: str, said: str) -> None:
    with pytest.raises(ArgumentsError, match=said) as caught:
        client_of(address)
    assert "secret" not in str(caught.value)


def test_what_is_an_address() -> None:
    assert is_server_address("HTTP://127.0.0.1:8000")
    assert not is_server_address("runs/http")
    assert str(client_of("https://host/prefix/v1").base_url) == "https://host/prefix/v1/"
