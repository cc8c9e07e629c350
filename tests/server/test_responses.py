"""/v1/responses, asked by the openai client: the same conversations and answers as /v1/chat/completions."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from support.engines.scripted import UNICODE
from support.live_server import LiveServer, live_server, until

from neuralchat.inference.server.fields import NOT_IN_RESPONSES

ASKED: Any = [{"role": "user", "content": "say: Blue and green."}]
# What a stream of one message has, one or several of which are pieces of its text.
EVENTS = [
    "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
    "response.output_item.done", "response.completed",
]  # fmt: skip


@pytest.fixture
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ids_of(server: LiveServer) -> tuple[int, ...]:
    """The prompt of the latest request."""
    return server.engine.tickets[-1].request.prompt_ids


def error_of(client: openai.OpenAI, **fields: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "support", "input": "a", **fields})
    return caught.value


def test_a_text_is_answered(client: openai.OpenAI) -> None:
    response = client.responses.create(model="support", input="say: Blue and green.")
    assert (response.output_text, response.status, response.error) == ("Blue and green.", "completed", None)
    assert (response.model, response.object, response.store) == ("support", "response", False)
    [item] = response.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    # The classes of the client take whatever comes; this is strict.
    Response.model_validate(response.model_dump(), strict=False)


def test_usage_is_that_of_the_chat(client: openai.OpenAI) -> None:
    usage = client.responses.create(model="support", input=ASKED).usage
    chat = client.chat.completions.create(model="support", messages=ASKED).usage
    assert usage is not None
    assert chat is not None
    assert (usage.input_tokens, usage.output_tokens) == (chat.prompt_tokens, chat.completion_tokens)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.cached_tokens > 0


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"input": "Hi"}, [("user", "Hi")]),
        ({"input": "Hi", "instructions": "Be brief."}, [("system", "Be brief."), ("user", "Hi")]),
        (
            {"input": [{"role": "developer", "content": "No lists."}, {"role": "user", "content": "Hi"}],
             "instructions": "Be brief."},
            [("system", "Be brief.\n\nNo lists."), ("user", "Hi")],
        ),
        (
            {"input": [{"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "Hi "}, {"type": "input_text", "text": "there"}]}]},
            [("user", "Hi there")],
        ),
        (
            {"input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                       {"role": "user", "content": "c"}]},
            [("user", "a"), ("assistant", "b"), ("user", "c")],
        ),
    ],
)  # fmt: skip
def test_the_prompt_is_that_of_the_chat(
    client: openai.OpenAI, server: LiveServer, fields: Any, messages: list[tuple[str, str]]
) -> None:
    client.responses.create(model="support", **fields)
    asked = ids_of(server)
    client.chat.completions.create(
        model="support",
        messages=[{"role": role, "content": text} for role, text in messages],  # type: ignore[misc]
    )
    assert asked == ids_of(server)


def test_an_answer_is_sent_back_as_it_came(client: openai.OpenAI, server: LiveServer) -> None:
    first = client.responses.create(model="support", input=ASKED)
    history = [*ASKED, *(item.model_dump() for item in first.output), {"role": "user", "content": "say: Red."}]
    assert client.responses.create(model="support", input=history).output_text == "Red."
    chat = [*ASKED, {"role": "assistant", "content": "Blue and green."}, {"role": "user", "content": "say: Red."}]
    asked = ids_of(server)
    client.chat.completions.create(model="support", messages=chat)
    assert asked == ids_of(server)


def test_how_it_is_answered(client: openai.OpenAI, server: LiveServer) -> None:
    response = client.responses.create(
        model="support", input="long", max_output_tokens=7, temperature=0.0, top_p=0.5, metadata={"a": "b"},
        store=False, truncation="disabled", text={"format": {"type": "text"}}, parallel_tool_calls=True, tools=[],
        include=[], user="anna", background=False,
    )  # fmt: skip
    assert (response.status, response.output_text) == ("incomplete", " word w")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    sampling = server.engine.tickets[-1].request.sampling
    assert (sampling.max_new_tokens, sampling.top_p) == (7, 0.5)
    assert (response.max_output_tokens, response.top_p, response.metadata) == (7, 0.5, {"a": "b"})


@pytest.mark.parametrize(("words", "text"), [("unicode", UNICODE), ("say: Blue and green.", "Blue and green.")])
def test_a_stream(client: openai.OpenAI, words: str, text: str) -> None:
    events: list[ResponseStreamEvent] = list(client.responses.create(model="support", input=words, stream=True))
    kinds = [event.type for event in events]
    assert list(dict.fromkeys(kinds)) == EVENTS
    assert [kind for kind in kinds if kinds.count(kind) > 1] == ["response.output_text.delta"] * (len(kinds) - 8)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == text
    last: Any = events[-1]
    whole = client.responses.create(model="support", input=words)
    assert last.response.output_text == whole.output_text == text
    assert last.response.usage == whole.usage
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {last.response.output[0].id}
    for event in events:
        # The client does not check what it is given.
        type(event).model_validate(event.model_dump())


def test_the_helper_for_streams(client: openai.OpenAI) -> None:
    """It puts the events together by itself."""
    with client.responses.stream(model="support", input=ASKED, instructions="Be brief.") as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.output_text == "".join(texts) == "Blue and green."


def test_events_are_named_and_end_by_themselves(server: LiveServer) -> None:
    text = server.post("/v1/responses", {"input": "a", "stream": True}).text
    blocks = [block.split("\n") for block in text.rstrip("\n").split("\n\n")]
    assert all(name == f"event: {json.loads(data[6:])['type']}" for name, data in blocks)
    assert blocks[-1][0] == "event: response.completed"
    assert "[DONE]" not in text


def test_a_stream_that_is_cut(client: openai.OpenAI) -> None:
    last: Any = list(client.responses.create(model="support", input="long", max_output_tokens=3, stream=True))[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    assert last.response.output[0].status == "incomplete"


def test_an_answer_without_a_word(client: openai.OpenAI, server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.engine, "say", lambda request: iter([min(request.end_ids)]))
    assert client.responses.create(model="support", input="a").output_text == ""
    events: list[Any] = list(client.responses.create(model="support", input="a", stream=True))
    assert [event.type for event in events] == [kind for kind in EVENTS if not kind.endswith("delta")]


def test_failures(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="the engine has crashed"):
        client.responses.create(model="support", input="fail")
    with pytest.raises(openai.APIError, match="the engine has crashed"):
        list(client.responses.create(model="support", input="fail", stream=True))
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-5", input="a")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")
    error = error_of(client, input="colour " * 600)
    assert (error.code, error.param) == ("context_length_exceeded", "input")


def test_leaving_frees_the_engine(client: openai.OpenAI, server: LiveServer) -> None:
    stream = client.responses.create(model="support", input="slow", stream=True, max_output_tokens=400)
    next(iter(stream))
    ticket = server.engine.tickets[-1]
    stream.close()
    until(ticket.left.is_set)


def test_asynchronous(server: LiveServer) -> None:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            stream = await client.responses.create(model="support", input="unicode", stream=True)
            return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    assert asyncio.run(ask()) == UNICODE


def test_langchain_asks_by_it_too(server: LiveServer) -> None:
    from langchain_openai import ChatOpenAI

    model: Any = ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="support", max_retries=0, use_responses_api=True,
        temperature=0, max_tokens=50,
    )  # fmt: skip
    turns = [("system", "Be brief."), ("human", "a"), ("ai", "b"), ("human", "say: Blue.")]
    assert model.invoke(turns).text == "Blue."
    assert "".join(chunk.text for chunk in model.stream("say: Blue and green.")) == "Blue and green."


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", "resp_1"), ("store", True), ("background", True), ("truncation", "auto"),
        ("conversation", "conv_1"), ("include", ["message.output_text.logprobs"]), ("top_logprobs", 3),
        ("max_tool_calls", 3), ("prompt", {"id": "a"}), ("reasoning", {"effort": "low"}), ("max_output_tokens", 0),
        ("max_output_tokens", 1 << 40), ("temperature", 3), ("instructions", 5), ("tool_choice", "required"),
        ("parallel_tool_calls", False), ("text", {"format": {"type": "json_object"}}), ("text", {"verbosity": "low"}),
        ("text", 5), ("tools", [{"type": "web_search"}]), ("tools", {}), ("n", 2), ("messages", ASKED),
        ("max_tokens", 5), ("nonsense", 1), ("input", []), ("input", ""), ("input", 5), ("input", [5]),
        ("input", [{"role": "user"}]), ("input", [{"type": "item_reference", "id": "a"}]),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]),
        ("input", [{"role": "user", "content": [{"type": "text", "text": "a"}]}]),
        ("input", [{"role": "tool", "content": "a", "tool_call_id": "a"}]),
        ("input", [{"role": "robot", "content": "a"}]), ("input", [{"role": "assistant", "content": "a"}]),
        ("input", [{"type": "function_call_output", "call_id": "a"}]),
        ("input", [{"role": "user", "content": "a", "weight": 1}]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_its_place(client: openai.OpenAI, field: str, value: Any) -> None:
    error = error_of(client, extra_body={field: value})
    assert (error.param or "").replace("[", ".").split(".")[0] == field
    assert field in str(error)


@pytest.mark.parametrize("field", NOT_IN_RESPONSES)
def test_what_is_not_supported_is_said_so(client: openai.OpenAI, field: str) -> None:
    assert error_of(client, extra_body={field: {"a": 1}}).code == "unsupported_parameter"


def test_null_is_absent(server: LiveServer) -> None:
    names = ("instructions", "previous_response_id", "conversation", "tools", "reasoning", "text", "store", "user")
    assert server.post("/v1/responses", {"input": "a", **dict.fromkeys(names)}).status_code == 200


def test_it_needs_the_key_that_all_need() -> None:
    from neuralchat.inference.server.settings import Keys, keys_in

    with live_server(keys=Keys(clients=keys_in("a-key-for-responses"))) as server:
        assert server.post("/v1/responses", {"input": "a"}).status_code == 401
