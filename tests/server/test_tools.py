"""Tools: shown to the model as its template shows them, its calls given back as calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.engines.scripted import ScriptedEngine
from support.live_server import LiveServer, live_server, small_voice
from support.templates.styles import STYLES, tokenizer_of

from neuralchat.inference.server.lineup import Lineup

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather", "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}  # fmt: skip
ASKED: Any = [{"role": "user", "content": "How is it in Oslo?"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


class Answering(ScriptedEngine):
    """Says `words`, whatever is asked."""

    words = ""

    def question(self, request: Any) -> str:
        return f"say: {self.words}"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    voice = small_voice(tokenizer=tokenizer_of(STYLES["qwen 2.5"]))
    engine = Answering(voice.tokenizer)
    with live_server(engine, lineup=Lineup(engine, dict.fromkeys(engine.models(), voice))) as running:
        yield running


def client_of(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("words", [CALL, f"Let me see. {CALL}", f"{CALL}\n{CALL}"])
@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_given_back_and_the_conversation_goes_on(server: LiveServer, words: str, stream: bool) -> None:
    server.engine.words = words
    client = client_of(server)
    if stream:
        with client.chat.completions.stream(model="support", messages=ASKED, tools=[TOOL]) as events:
            choice: Any = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(model="support", messages=ASKED, tools=[TOOL]).choices[0]
    calls = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert (choice.message.content or "").strip() == words.partition("<tool_call>")[0].strip()
    assert len(calls) == words.count("<tool_call>")
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})
    server.engine.words = "It rains."
    results = [{"role": "tool", "tool_call_id": call.id, "content": "Rain."} for call in calls]
    if choice.message.content and stream:
        return
    turns = [*ASKED, json.loads(choice.message.model_dump_json(exclude_unset=True)), *results]
    answer = client.chat.completions.create(model="support", messages=turns, tools=[TOOL]).choices[0]
    assert (answer.message.content, answer.finish_reason) == ("It rains.", "stop")
    shown = server.post("/v1/render", {"messages": turns, "tools": [TOOL]}).json()["text"]
    assert shown.count("<tool_response>\nRain.") == len(calls)
    assert '"city": "Oslo"' in shown


@pytest.mark.parametrize("words", [CALL, f"Let me see. {CALL}", f"{CALL}\n{CALL}"])
@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_a_response(server: LiveServer, words: str, stream: bool) -> None:
    """They are items of its output, which come back as items of the next input."""
    server.engine.words = words
    client, tools = client_of(server), [{"type": "function", **TOOL["function"]}]
    if stream:
        with client.responses.stream(model="support", input=ASKED, tools=tools) as events:
            done = [event for event in events if event.type == "response.function_call_arguments.done"]
            response: Any = events.get_final_response()
        assert len(done) == words.count("<tool_call>")
    else:
        response = client.responses.create(model="support", input=ASKED, tools=tools)
    calls = [item for item in response.output if item.type == "function_call"]
    assert [item.type for item in response.output[: -len(calls)]] == ["message"] * words.startswith("Let")
    assert response.output_text.strip() == words.partition("<tool_call>")[0].strip()
    assert len(calls) == len({call.call_id for call in calls}) == words.count("<tool_call>")
    assert all((call.name, json.loads(call.arguments)) == ("weather", {"city": "Oslo"}) for call in calls)
    server.engine.words = "It rains."
    said = [json.loads(item.model_dump_json(exclude={"parsed_arguments"})) for item in response.output]
    for item in said:
        for part in item.get("content") or ():
            part.pop("parsed", None)
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."} for call in calls]
    answer = client.responses.create(model="support", input=[*ASKED, *said, *results], tools=tools)
    assert answer.output_text == "It rains."
    # The same as a chat.
    asked = server.engine.tickets[-1].request.prompt_ids
    message = {
        "role": "assistant",
        "content": response.output_text,
        "tool_calls": [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ],
    }
    tool_messages = [{"role": "tool", "tool_call_id": call.call_id, "content": "Rain."} for call in calls]
    turns: Any = [*ASKED, message, *tool_messages]
    client.chat.completions.create(model="support", messages=turns, tools=[TOOL])
    assert asked == server.engine.tickets[-1].request.prompt_ids


@pytest.mark.parametrize("words", ["It rains.", "<tool_call>\nnot JSON", "a < b <tool", f"{CALL} is a call"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_call_is_text(server: LiveServer, words: str, stream: bool) -> None:
    server.engine.words = words
    if stream:
        chunks = server.events(messages=ASKED, tools=[TOOL])[:-1]
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        choice = server.chat(messages=ASKED, tools=[TOOL]).json()["choices"][0]
        text = choice["message"]["content"]
        assert "tool_calls" not in choice["message"]
    assert text == words


def test_without_tools_nothing_is_a_call(server: LiveServer) -> None:
    server.engine.words = CALL
    for fields in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        assert server.chat(messages=ASKED, **fields).json()["choices"][0]["message"]["content"] == CALL


def test_a_call_that_is_cut_is_text(server: LiveServer) -> None:
    server.engine.words = CALL
    choice = server.chat(messages=ASKED, tools=[TOOL], max_tokens=20).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert CALL.startswith(choice["message"]["content"])


def test_tools_are_part_of_the_prompt(server: LiveServer) -> None:
    with_tools, without = (
        server.post("/v1/render", {"messages": ASKED, **fields}).json()["text"] for fields in ({"tools": [TOOL]}, {})
    )
    assert "The weather of a town." in with_tools
    assert "The weather of a town." not in without
