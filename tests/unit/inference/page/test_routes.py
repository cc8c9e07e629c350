"""inference/page/routes.py: what is sent to whom, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from neuralchat.inference.page.feedback import FeedbackFile
from neuralchat.inference.page.markdown import LONGEST_RENDERED
from neuralchat.inference.page.routes import MOST_BODY_BYTES, PageSettings, page_files, page_router


def client_of(feedback: Path | None = None, guard: Any = None) -> TestClient:
    app = FastAPI()
    guards = (Depends(guard),) if guard else ()
    app.include_router(page_router(PageSettings(FeedbackFile(feedback) if feedback else None, guards)))
    return TestClient(app)


def rated(messages: Any) -> dict[str, Any]:
    return {"id": "answer-1", "feedback": "up", "model": "a", "messages": messages}


def test_every_file_that_the_page_names_is_sent() -> None:
    client = client_of()
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    names = set(re.findall(r'(?:href|src)="page/([^"]+)"', index.text))
    for name, file in page_files().items():
        if name.endswith(".js"):
            names |= set(re.findall(r'from "\./([^"]+)"', file.content.decode()))
    assert names | {"index.html"} == set(page_files())
    for name in names:
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 200
        assert answer.content == page_files()[name].content
        again = client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for name in ("index.html", "none.js", "..%2froutes.py", "%2e%2e/routes.py"):
        assert client.get(f"/page/{name}").status_code == 404
    assert client.head("/").status_code == 200


def test_no_file_of_the_page_names_another_place() -> None:
    for name, file in page_files().items():
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", file.content.decode()))
        assert {address for address in addresses if "www.w3.org" not in address} == set(), name
        assert not re.search(
            rb'\son\w+="|\sstyle="|<script>|eval\(|insertAdjacentHTML|document\.write', file.content
        ), name


def test_texts_are_rendered() -> None:
    answer = client_of().post("/page/render", json={"texts": ["**a**", "<b>", "", "a" * (LONGEST_RENDERED + 1)]})
    assert answer.json() == {"html": ["<p><strong>a</strong></p>\n", "<p>&lt;b&gt;</p>\n", "", None]}


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ({"json": {"texts": "a"}}, 400, "a list of texts"),
        ({"json": {"texts": [1]}}, 400, "a list of texts"),
        ({"json": {"texts": [], "html": True}}, 400, "a list of texts"),
        ({"json": [["a"]]}, 400, "a list of texts"),
        ({"json": {"texts": ["a"] * 201}}, 413, "201 texts"),
        ({"json": {"texts": ["a" * LONGEST_RENDERED] * 5}}, 413, "characters"),
        ({"content": b'{"texts": ["\\ud800"]}', "headers": {"Content-Type": "application/json"}}, 400, "surrogate"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ({"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ({"content": b"\xff", "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        (
            {"content": b" " * (MOST_BODY_BYTES + 1), "headers": {"Content-Type": "application/json"}},
            413,
            "larger than 2 MiB",
        ),
        # What a form of another page can send.
        ({"content": b'{"texts": ["a"]}', "headers": {"Content-Type": "text/plain"}}, 415, "must be JSON"),
        ({"json": {"texts": ["a"]}, "headers": {"Sec-Fetch-Site": "cross-site"}}, 403, "only the page of this server"),
    ],
)
def test_other_requests_are_refused_in_words(options: dict[str, Any], status: int, said: str) -> None:
    answer = client_of().post("/page/render", **options)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_feedback(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    silent = client_of()
    assert silent.get("/page/settings").json()["feedback"] is False
    assert silent.post("/page/feedback", json=rated(talk)).status_code == 404

    client = client_of(tmp_path / "answers.jsonl")
    assert client.get("/page/settings").json()["feedback"] is True
    assert client.post("/page/feedback", json=rated(talk)).json() == {"feedback": "up"}
    refused = client.post("/page/feedback", json=rated(talk[:1]))
    assert refused.status_code == 400
    assert "must not end with user" in refused.json()["error"]["message"]
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 1

    lost = client_of(tmp_path / "none" / "answers.jsonl").post("/page/feedback", json=rated(talk))
    assert lost.status_code == 500
    # Where the server keeps its files is nobody's business.
    assert lost.json()["error"]["message"] == "the feedback was not kept: No such file or directory"


def test_what_does_something_passes_the_guards() -> None:
    def guard() -> None:
        raise HTTPException(401, "no key")

    client = client_of(guard=guard)
    assert client.post("/page/render", json={"texts": []}).status_code == 401
    assert client.post("/page/feedback", json={}).status_code == 401
    assert client.get("/").status_code == 200
