"""What cannot be answered is refused with 400, by name and place, in OpenAI's form of errors; nothing is cut."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.live_server import ROOM, LiveServer, live_server, small_voice

from neuralchat.inference.server.fields import NOT_SUPPORTED

ASKED = {"role": "user", "content": "Name a colour."}
SAID = {"role": "assistant", "content": "Blue."}
RULE = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call00000", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}


def error_of(response: Any, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1), ("temperature", 2.5), ("temperature", "hot"), ("temperature", True), ("top_p", 1.5),
        ("top_p", -0.1), ("top_k", -2), ("top_k", 1.5), ("min_p", 2), ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0), ("n", 0), ("n", 1.0), ("n", 17), ("seed", 1 << 70), ("seed", "a"), ("max_tokens", 0),
        ("max_tokens", -5), ("max_tokens", 1 << 40), ("max_completion_tokens", 0), ("stop", ["a"] * 5), ("stop", [""]),
        ("stop", 5), ("stop", ["a", 5]), ("stop", "a" * 300), ("stream", "yes"), ("stream", 1), ("logprobs", 3),
        ("top_logprobs", 21), ("top_logprobs", 3), ("logit_bias", {"a": 1}), ("logit_bias", {"5": 101}),
        ("logit_bias", {"999999": 1}), ("logit_bias", {"-1": 1}), ("logit_bias", {"5": "a"}), ("logit_bias", [5]),
        ("stream_options", {"include_usage": True}), ("stream_options", 5), ("user", 5), ("modalities", ["audio"]),
        ("response_format", {"type": "json_schema", "json_schema": {}}), ("response_format", {"type": "json_object"}),
        ("response_format", "text"), ("tool_choice", "required"), ("tool_choice", {"type": "function"}),
        ("parallel_tool_calls", False), ("store", True), ("service_tier", "flex"), ("tools", {}), ("tools", [5]),
        ("tools", [{"type": "function"}]), ("tools", [{"type": "retrieval"}]), ("messages", None), ("messages", []),
        ("messages", "Hi"), ("messages", {}), ("model", ""), ("model", 5), ("nonsense", 1), ("Temperature", 1),
    ],
)  # fmt: skip
def test_a_field_is_refused_by_its_name(server: LiveServer, field: str, value: Any) -> None:
    error = error_of(server.chat(**{field: value}))
    assert error["type"] == "invalid_request_error"
    assert re.split(r"[.\[]", error["param"] or "")[0] == field
    assert field in error["message"]


@pytest.mark.parametrize("field", NOT_SUPPORTED)
def test_what_others_support_is_refused_by_its_name(server: LiveServer, field: str) -> None:
    error = error_of(server.chat(**{field: {"a": 1}}))
    assert error["param"] == field
    assert error["code"] in ("unsupported_parameter", "unknown_parameter")


@pytest.mark.parametrize("field", ["messages", "max_completion_tokens", "tools", "response_format", "suffix", "echo"])
def test_of_a_text_too(server: LiveServer, field: str) -> None:
    error = error_of(server.post("/v1/completions", {"prompt": "a", field: True}))
    assert error["param"] == field


def test_several_wrong_fields_are_told_together(server: LiveServer) -> None:
    message = error_of(server.chat(temperature=5, top_p=7, nonsense=1))["message"]
    assert all(name in message for name in ("temperature", "top_p", "nonsense"))


def test_two_limits_that_differ(server: LiveServer) -> None:
    assert error_of(server.chat(max_tokens=4, max_completion_tokens=5))["param"] == "max_tokens"


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([5], "messages[0]"),
        ([[]], "messages[0]"),
        ([{}], "messages[0].role"),
        ([{"content": "a"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": ""}], "messages[0].content"),
        ([{"role": "user", "content": "  \n"}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": {"text": "a"}}], "messages[0].content"),
        ([{"role": "user", "content": ["a"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}], "messages[0].content[0].x"),
        ([{"role": "robot", "content": "a"}], "messages[0].role"),
        ([{"role": "function", "name": "f", "content": "a"}], "messages[0].role"),
        ([{"role": ["user"], "content": "a"}], "messages[0].role"),
        ([RULE], "messages"),
        ([RULE, ASKED, RULE, RULE], "messages[2].role"),
        ([ASKED, RULE], "messages[1].role"),
        ([{**ASKED, "name": "a"}, {**ASKED, "name": "b"}], "messages[1].role"),
        ([SAID], "messages[0].role"),
        ([ASKED, SAID, SAID, {"role": "tool", "content": "a"}], "messages[3].tool_call_id"),
        ([RULE, SAID, ASKED], "messages[1].role"),
        ([{"role": "tool", "content": "a", "tool_call_id": "x"}], "messages[0].role"),
        ([ASKED, {"role": "tool", "content": "a", "tool_call_id": "x"}], "messages[1].role"),
        ([ASKED, SAID, {"role": "tool", "content": "a"}], "messages[2].tool_call_id"),
        ([{**ASKED, "tool_calls": [CALL]}], "messages[0].tool_calls"),
        ([{**ASKED, "weight": 1}], "messages[0].weight"),
        ([{**ASKED, "name": 5}], "messages[0].name"),
        ([ASKED, {**SAID, "function_call": {"name": "f"}}, ASKED], "messages[1].function_call"),
        ([ASKED, {**SAID, "audio": {"id": "a"}}, ASKED], "messages[1].audio"),
        ([ASKED, {**SAID, "tool_calls": 5}, ASKED], "messages[1].tool_calls"),
        ([ASKED, {**SAID, "tool_calls": [5]}, ASKED], "messages[1].tool_calls[0]"),
        ([ASKED, {**SAID, "tool_calls": [{"function": {}}]}, ASKED], "messages[1].tool_calls"),
    ],
)
def test_malformed_messages_are_told_by_place(server: LiveServer, messages: Any, place: str) -> None:
    error = error_of(server.chat(messages=messages))
    assert error["param"] == place
    assert error["message"].startswith((place, f"field '{place}"))
    assert error_of(server.post("/v1/render", {"messages": messages}))["param"] == place


def test_what_may_be_in_a_conversation_is_taken(server: LiveServer) -> None:
    empty = {"role": "assistant", "content": "", "refusal": None, "audio": None, "function_call": None}
    for messages in (
        [RULE, ASKED, SAID, ASKED],
        [{"role": "developer", "content": "Be brief."}, ASKED],
        [ASKED, empty, ASKED],
        [{"role": "system", "content": ""}, ASKED],
        [{**ASKED, "name": "anna"}],
        [ASKED, {**SAID, "refusal": "", "annotations": []}, ASKED],
    ):
        assert server.chat(messages=messages).status_code == 200


def test_too_many_messages(server: LiveServer) -> None:
    error = error_of(server.chat(messages=[ASKED, SAID] * 129))
    assert "has 258 messages; at most 256" in error["message"]


def test_tools_are_refused_where_the_template_knows_none(server: LiveServer) -> None:
    error = error_of(server.chat(tools=[TOOL]))
    assert error["param"] == "tools"
    assert "knows no tools" in error["message"]
    # Nobody is to be told of them then.
    assert server.chat(tools=[TOOL], tool_choice="none").status_code == 200
    error_of(server.chat(messages=[ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                                   {"role": "tool", "content": "x", "tool_call_id": "call00000"}]))  # fmt: skip


def test_a_prompt_that_is_too_long_is_refused_with_both_counts(server: LiveServer) -> None:
    words = "colour " * 400
    count = server.post("/v1/render", {"messages": [{"role": "user", "content": words}]}).json()["count"]
    assert count > ROOM
    error = error_of(server.chat(words, max_tokens=20))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert f"the prompt has {count} tokens" in error["message"]
    assert f"which is {count + 20} of at most {ROOM} tokens" in error["message"]
    assert error_of(server.chat(words, stream=True))["code"] == "context_length_exceeded"
    error = error_of(server.post("/v1/completions", {"prompt": words}))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")


def test_an_answer_that_is_too_long_for_what_is_left(server: LiveServer) -> None:
    count = server.post("/v1/render", {"messages": [ASKED]}).json()["count"]
    error = error_of(server.chat(max_tokens=ROOM))
    assert error["code"] == "context_length_exceeded"
    assert f"ask for at most {ROOM - count} tokens" in error["message"]
    assert server.chat("say: a", max_tokens=ROOM - 40).status_code == 200


def test_without_a_limit_an_answer_gets_what_is_left(server: LiveServer) -> None:
    words = "colour " * 180
    count = server.post("/v1/render", {"messages": [{"role": "user", "content": words}]}).json()["count"]
    assert ROOM - 256 < count < ROOM
    assert server.chat(words).status_code == 200
    assert server.engine.tickets[-1].request.sampling.max_new_tokens == ROOM - count


def test_the_memory_of_the_engine_is_a_limit_too() -> None:
    from support.engines.scripted import ScriptedEngine

    engine = ScriptedEngine(small_voice().tokenizer, memory_tokens=40)
    with live_server(engine) as server:
        error = error_of(server.chat(max_tokens=39))
        assert error["code"] == "context_length_exceeded"
        assert "at most 40 tokens" in error["message"]


def test_a_model_that_there_is_not(server: LiveServer) -> None:
    error = error_of(server.chat(model="gpt-4"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "base, support" in error["message"]
    with server.client() as client:
        assert error_of(client.get("/v1/models/gpt-4"), 404)["code"] == "model_not_found"


BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not JSON"),
    "cut": (b'{"messages": [', "not JSON"),
    "no object": (b"[]", "must be a JSON object"),
    "a word": (b'"a"', "must be a JSON object"),
    "NaN": (b'{"temperature": NaN}', "NaN is no number"),
    "Infinity": (b'{"temperature": -Infinity}', "Infinity is no number"),
    "an infinite float": (b'{"temperature": 1e999}', "too large"),
    "a huge integer": (b'{"seed": ' + b"9" * 10_000 + b"}", "not JSON"),
    "deep lists": (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    "less deep lists": (b'{"messages": ' + b"[" * 60 + b"]" * 60 + b"}", "nested"),
    "deep objects": (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "nested"),
    "half of a surrogate pair": (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "surrogate"),
    "one in a name": (b'{"\\udc00": 1}', "surrogate"),
    "no UTF-8": (b'{"messages": "\xff"}', "not UTF-8"),
    "UTF-16": ('{"messages": []}'.encode("utf-16"), "not UTF-8"),
    "two values": (b"{} {}", "not JSON"),
    "a comment": (b"{} // x", "not JSON"),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/render"])
def test_bodies_that_are_none(server: LiveServer, name: str, path: str) -> None:
    content, words = BODIES[name]
    with server.client() as client:
        response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert words in error_of(response)["message"]


def test_whole_surrogate_pairs_are_text(server: LiveServer) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "say: 🙂"}]}).encode()
    assert b"\\ud83d\\ude42" in body
    with server.client() as client:
        response = client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.json()["choices"][0]["message"]["content"] == "🙂"


def test_other_paths_and_methods_have_the_same_form_of_errors(server: LiveServer) -> None:
    with server.client() as client:
        error_of(client.get("/v1/nothing"), 404)
        error_of(client.get("/v1/chat/completions"), 405)
        error_of(client.put("/v1/models"), 405)
        error_of(client.get("/docs"), 404)
        error_of(client.get("/openapi.json"), 404)
        error_of(client.get("/v1/models/"), 404)
