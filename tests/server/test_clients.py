"""Real clients: openai, LangChain, curl; and what Open WebUI sends."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.engines.scripted import UNICODE
from support.live_server import LiveServer, live_server, until

KEY = "a-key-for-the-tests-of-clients"
ASKED: Any = [{"role": "user", "content": "say: Blue and green."}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    from neuralchat.inference.server.settings import Keys, keys_in

    with live_server(keys=Keys(clients=keys_in(KEY))) as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


def asked(words: str) -> Any:
    return [{"role": "user", "content": words}]


class TestOpenAI:
    def test_models(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["base", "support"]
        assert client.models.retrieve("support").owned_by == "neuralchat"

    def test_whole(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model="support", messages=ASKED)
        assert answer.choices[0].message.content == "Blue and green."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

    def test_stream(self, client: openai.OpenAI) -> None:
        chunks = list(client.chat.completions.create(model="support", messages=asked("unicode"), stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == UNICODE
        assert chunks[-1].choices[0].finish_reason == "stop"

    def test_usage_of_a_stream(self, client: openai.OpenAI) -> None:
        options: Any = {"include_usage": True}
        chunks = list(
            client.chat.completions.create(model="support", messages=ASKED, stream=True, stream_options=options)
        )
        assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]

    def test_helper_for_streams(self, client: openai.OpenAI) -> None:
        """It puts the chunks together by itself, and is strict about their form."""
        with client.chat.completions.stream(model="support", messages=ASKED) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        assert final.choices[0].message.content == "Blue and green."

    def test_logprobs(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model="support", messages=asked("unicode"), logprobs=True, top_logprobs=3
        )
        content = answer.choices[0].logprobs.content if answer.choices[0].logprobs else None
        assert content is not None
        assert bytes(byte for token in content for byte in token.bytes or ()).decode() == UNICODE
        assert all(len(token.top_logprobs) == 3 for token in content)

    def test_several_answers_with_stop_and_seed(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model="support", messages=ASKED, n=2, seed=3, stop=["green"], temperature=0, max_tokens=50
        )
        assert [choice.message.content for choice in answer.choices] == ["Blue and "] * 2

    def test_text(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(model="base", prompt="say: Blue.", max_tokens=20)
        assert answer.choices[0].text == "Blue."

    def test_errors_are_the_classes_that_they_are_there(self, client: openai.OpenAI, server: LiveServer) -> None:
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(model="support", messages=ASKED, extra_body={"nonsense": 1})
        assert (bad.value.param, bad.value.code) == ("nonsense", "unknown_parameter")
        with pytest.raises(openai.BadRequestError) as long:
            client.chat.completions.create(model="support", messages=asked("colour " * 600))
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-4", messages=ASKED)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
        with pytest.raises(openai.InternalServerError, match="the engine has crashed"):
            client.chat.completions.create(model="support", messages=asked("fail"))

    def test_a_stream_that_breaks_raises(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.APIError, match="the engine has crashed"):
            list(client.chat.completions.create(model="support", messages=asked("fail"), stream=True))

    def test_closing_a_stream_frees_the_engine(self, client: openai.OpenAI, server: LiveServer) -> None:
        stream = client.chat.completions.create(model="support", messages=asked("slow"), stream=True, max_tokens=400)
        next(iter(stream))
        ticket = server.engine.tickets[-1]
        assert not ticket.left.is_set()
        stream.close()
        assert ticket.ended.wait(5)
        assert ticket.left.is_set()

    def test_many_at_once(self, server: LiveServer) -> None:
        async def ask(client: openai.AsyncOpenAI, number: int) -> bool:
            stream = await client.chat.completions.create(model="base", messages=asked(f"say: {number}"), stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == str(number)

        async def all_of_them() -> list[bool]:
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
                return await asyncio.gather(*(ask(client, number) for number in range(30)))

        assert all(asyncio.run(all_of_them()))


class TestLangChain:
    @pytest.fixture
    def model(self, server: LiveServer) -> Any:
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(
            base_url=f"{server.url}/v1", api_key=KEY, model="support", max_retries=0, max_tokens=100, temperature=0
        )

    def test_invoke(self, model: Any, server: LiveServer) -> None:
        answer = model.invoke([("system", "Be brief."), ("human", "say: Blue.")])
        assert answer.content == "Blue."
        assert answer.usage_metadata["total_tokens"] > 0
        assert answer.response_metadata["finish_reason"] == "stop"
        # It says max_completion_tokens.
        assert server.engine.tickets[-1].request.sampling.max_new_tokens == 100

    def test_stream(self, model: Any) -> None:
        assert "".join(chunk.content for chunk in model.stream("say: Blue and green.")) == "Blue and green."

    def test_a_conversation(self, model: Any) -> None:
        turns = [("human", "a"), ("ai", "b"), ("human", "say: c")]
        assert model.invoke(turns).content == "c"

    def test_batch_stop_and_errors(self, model: Any) -> None:
        assert [answer.content for answer in model.batch(["say: a", "say: b"])] == ["a", "b"]
        assert model.invoke("say: Blue and green.", stop=["and"]).content == "Blue "
        with pytest.raises(openai.BadRequestError):
            model.bind(response_format={"type": "json_object"}).invoke("a")

    def test_logprobs(self, model: Any) -> None:
        answer = model.bind(logprobs=True).invoke("say: Blue.")
        content = answer.response_metadata["logprobs"]["content"]
        assert bytes(byte for token in content for byte in token["bytes"]).decode() == "Blue."

    def test_asynchronous(self, model: Any) -> None:
        async def stream() -> str:
            return "".join([chunk.content async for chunk in model.astream("unicode")])

        assert asyncio.run(stream()) == UNICODE


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
class TestCurl:
    def curl(self, server: LiveServer, path: str, *words: str) -> str:
        command = [
            "curl", "-sS", "-N", "--noproxy", "*", "-m", "20", "-H", f"Authorization: Bearer {KEY}", *words,
            f"{server.url}{path}",
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def body(self, **fields: Any) -> list[str]:
        return ["-H", "Content-Type: application/json", "-d", json.dumps({"messages": ASKED, **fields})]

    def test_whole(self, server: LiveServer) -> None:
        answer = json.loads(self.curl(server, "/v1/chat/completions", *self.body()))
        assert answer["choices"][0]["message"]["content"] == "Blue and green."

    def test_stream(self, server: LiveServer) -> None:
        lines = self.curl(server, "/v1/chat/completions", *self.body(stream=True)).splitlines()
        assert lines[0].startswith("data: {")
        assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"

    def test_waiting_for_leave_to_send_a_large_body(self, server: LiveServer) -> None:
        """Above a size curl asks first (Expect: 100-continue)."""
        words = ["-H", "Expect: 100-continue", *self.body()]
        assert json.loads(self.curl(server, "/v1/chat/completions", *words))["object"] == "chat.completion"

    def test_a_form_is_told_what_to_send(self, server: LiveServer) -> None:
        error = json.loads(self.curl(server, "/v1/chat/completions", "-d", "{}"))["error"]
        assert "Content-Type: application/json" in error["message"]

    def test_head_and_models(self, server: LiveServer) -> None:
        assert "200 OK" in self.curl(server, "/health", "-i")
        assert [model["id"] for model in json.loads(self.curl(server, "/v1/models"))["data"]] == ["base", "support"]


class TestOpenWebUI:
    """It lists the models, streams the chat, and asks for a title and tags beside it."""

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEY}", "X-OpenWebUI-User-Id": "1", "Accept": "*/*"}

    def test_an_evening(self, server: LiveServer) -> None:
        with server.client(**self.headers()) as client:
            models = client.get("/v1/models").json()["data"]
            name = models[1]["id"]
            chat = {"stream": True, "model": name, "messages": asked("slow"), "max_tokens": 60}
            with client.stream("POST", "/v1/chat/completions", json=chat) as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith("data: ")
                history = 'Chat history:\n<chat_history>\nUSER: a\nASSISTANT: b\n</chat_history>\n{ "title": "..." }'
                for task in ("title", "tags"):
                    body = {"model": name, "messages": asked(f"### Task: {task}\n{history}"), "stream": False}
                    body |= {"max_completion_tokens": 50} if task == "title" else {}
                    assert client.post("/v1/chat/completions", json=body).status_code == 200
                rest = list(lines)
        assert "data: [DONE]" in rest

    def test_settings_that_its_sliders_send(self, server: LiveServer) -> None:
        body = {
            "model": "support", "stream": True, "stream_options": {"include_usage": True}, "messages": ASKED,
            "temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "frequency_penalty": 0, "presence_penalty": 0,
            "seed": 42, "max_tokens": 128, "stop": ["<end>"], "logit_bias": {"5": 1}, "repetition_penalty": 1.1,
        }  # fmt: skip
        with server.client(**self.headers()) as client:
            assert "[DONE]" in client.post("/v1/chat/completions", json=body).text

    def test_a_stopped_answer_and_the_next_question(self, server: LiveServer) -> None:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}, *ASKED]
        with server.client(**self.headers()) as client:
            body = {"model": "support", "messages": turns}
            answer = client.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] == "Blue and green."

    def test_stopping(self, server: LiveServer) -> None:
        body = {"model": "support", "stream": True, "messages": asked("slow"), "max_tokens": 400}
        with (
            server.client(**self.headers()) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as stream,
        ):
            next(stream.iter_lines())
        until(server.engine.tickets[-1].left.is_set)
