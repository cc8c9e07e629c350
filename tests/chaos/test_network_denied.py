"""Chat, server and page where there is no network: they work, and nobody tries to leave."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from pathlib import Path

import httpx
import huggingface_hub.constants
import pytest
from support.checkpoints import save_run
from support.forks import Streams, end_of, start
from support.live_server import forked_engines, until
from support.strangers.denied import NOT_ALLOWED, deny_network, tries

from neuralchat import cli
from neuralchat.inference.page.routes import page_files

ADDRESS = re.compile(r"at (http://127\.0\.0\.1:\d+)/v1")
# By which nothing would be fetched, or through somebody.
SAYS_OFFLINE = re.compile(r"^(HF_|TRANSFORMERS_)|_proxy$", re.IGNORECASE)


def denied() -> None:
    """No network, and nothing but that which says so."""
    deny_network()
    huggingface_hub.constants.HF_HUB_OFFLINE = False
    for name in [name for name in os.environ if SAYS_OFFLINE.search(name)]:
        del os.environ[name]


def command(*words: str) -> int:
    """The process of `neuralchat WORDS`, which leaves by its exit status."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = cli.main(list(words))
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ask_everything(url: str) -> None:
    with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False) as client:
        for path in ("/", *(f"/page/{name}" for name in page_files() if name != "index.html"), "/page/settings"):
            assert client.get(path).status_code == 200, path
        for path in ("/health", "/ready", "/metrics", "/v1/models"):
            assert client.get(path).status_code == 200, path
        body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
        for model in ("run", "model"):
            for fields in ({}, {"stream": True}):
                answer = client.post("/v1/chat/completions", json={**body, **fields, "model": model})
                assert answer.status_code == 200, answer.text
        assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200
        assert client.post("/v1/render", json=body).status_code == 200
        shown = client.post("/page/render", json={"texts": ["![a](https://example.com/a.png) <b>b</b>"]})
        assert shown.status_code == 200


def use_everything(report: Path) -> int:
    """Write (step, what was tried until then) of each step; the last one tries on purpose."""
    found = []

    def step(name: str) -> None:
        found.append((name, tries()))

    step("nothing")
    assert ended(command("chat", "run", "-p", "a", "--max_new_tokens", "2")) == 0
    step("chat")
    assert ended(command("chat", "model", "--file", "in.jsonl", "--output", "out.jsonl", "--max_new_tokens", "2")) == 0
    step("chat --file")
    forked_engines()
    server = command("serve", "run", "--port", "0", "--feedback", "liked.jsonl")
    try:
        until(lambda: ADDRESS.search(Path("log").read_text()), 90)
        step("serve")
        url = ADDRESS.search(Path("log").read_text())[1]  # type: ignore[index]
        ask_everything(url)
        step("requests")
        assert ended(command("chat", url, "-p", "a")) == 0
        step("chat with a server")
    finally:
        os.kill(server, signal.SIGTERM)
        assert ended(server) == 0
    step("the end")
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1")):
        with socket.socket(family) as connection:
            assert connection.connect_ex((address, 80)) != 0
    step("on purpose")
    report.write_text(json.dumps(found))
    return 0


def test_nobody_tries_to_leave(tmp_path: Path, llama_checkpoint: Path) -> None:
    (tmp_path / "model").symlink_to(llama_checkpoint)
    save_run(tmp_path / "run", tmp_path / "model", "lora")
    (tmp_path / "in.jsonl").write_text('{"question": "a"}\n')
    log, report = tmp_path / "log", tmp_path / "report"
    child = start(lambda: use_everything(report), tmp_path, Streams(log, log), denied)
    if (status := end_of(child)) == NOT_ALLOWED:
        pytest.skip("a network namespace of its own is not allowed here")
    assert status == 0, log.read_text()
    *steps, on_purpose = json.loads(report.read_text())
    assert len(steps) == 7
    assert [tried for tried in steps if tried[1]] == []
    # It does count.
    assert on_purpose[1] == {"Ip:OutNoRoutes": 1, "Tcp:AttemptFails": 1}
