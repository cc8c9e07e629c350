"""Messages of one role in a row, which Open WebUI and LangChain send: one message, and the response says so."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from support.live_server import LiveServer

RULE, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}
SAID, ASKED = {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "say: Blue."}
HEADER = "X-NeuralChat-Joined"


def message(role: str, *texts: str) -> dict[str, str]:
    return {"role": role, "content": "\n\n".join(texts)}


@pytest.mark.parametrize(
    ("messages", "same", "joined"),
    [
        ([USER, ASKED], [message("user", "Hello.", "say: Blue.")], "messages[1]"),
        ([USER, USER, USER], [message("user", "Hello.", "Hello.", "Hello.")], "messages[1], messages[2]"),
        ([RULE, RULE, ASKED], [message("system", "Be brief.", "Be brief."), ASKED], "messages[1]"),
        ([RULE, {"role": "developer", "content": "No lists."}, ASKED],
         [message("system", "Be brief.", "No lists."), ASKED], "messages[1]"),
        ([USER, SAID, SAID, ASKED], [USER, message("assistant", "Hi.", "Hi."), ASKED], "messages[2]"),
    ],
)  # fmt: skip
def test_they_are_one_and_it_is_said(server: LiveServer, messages: Any, same: Any, joined: str) -> None:
    plain = server.post("/v1/render", {"messages": same})
    shown = server.post("/v1/render", {"messages": messages})
    assert shown.json()["ids"] == plain.json()["ids"]
    assert shown.headers[HEADER] == joined
    assert HEADER not in plain.headers
    for stream in (False, True):
        answer = server.chat(messages=messages, stream=stream)
        assert (answer.status_code, answer.headers.get(HEADER)) == (200, joined)
        assert list(server.engine.tickets[-1].request.prompt_ids) == plain.json()["ids"]


def test_clients_can_send_them_and_see_the_header(server: LiveServer) -> None:
    from langchain_openai import ChatOpenAI

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    raw = client.chat.completions.with_raw_response.create(model="support", messages=[USER, ASKED])  # type: ignore[list-item]
    assert raw.headers[HEADER] == "messages[1]"
    model: Any = ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model="support", max_retries=0)
    assert model.invoke([("system", "a"), ("system", "b"), ("human", "c"), ("human", "d")]).content == "c\n\nd"


def test_where_another_spoke_they_are_refused(server: LiveServer) -> None:
    messages = [{**USER, "name": "anna"}, {**ASKED, "name": "ben"}]
    error = server.chat(messages=messages).json()["error"]
    assert error["param"] == "messages[1].role"
    assert "different names" in error["message"]
