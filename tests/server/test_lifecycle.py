"""Clients that leave, answers that end before the server does, and runs that come and go."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.live_server import LiveServer, live_server, small_voice, until

from neuralchat.errors import ArgumentsError
from neuralchat.inference.server.lineup import Lineup
from neuralchat.inference.server.settings import Keys, keys_in
from neuralchat.inference.voice import Voice

ADMIN, KEY = "an-admins-key-for-runs", "a-key-of-a-client-alone"


def asking(server: LiveServer, *, stream: bool, n: int = 1) -> socket.socket:
    """A connection on which a long answer is awaited."""
    body = json.dumps(
        {"messages": [{"role": "user", "content": "slow"}], "stream": stream, "max_tokens": 400, "n": n}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"  # noqa: E501
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(head.encode() + body)
    return connection


class TestClientsThatLeave:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("how", ["closed", "reset"])
    def test_the_engine_is_told_at_once(self, server: LiveServer, stream: bool, how: str) -> None:
        before = len(server.engine.tickets)
        connection = asking(server, stream=stream, n=2)
        until(lambda: len(server.engine.tickets) == before + 2)
        if stream:
            assert connection.recv(100)
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        for ticket in server.engine.tickets[before:]:
            assert ticket.ended.wait(5)
            assert ticket.left.is_set()
        until(lambda: server.served.desk.places.taken == 0)
        until(lambda: "client left" in server.log[-1])

    def test_who_reads_nothing_holds_a_place_and_no_memory_until_the_time_is_over(self) -> None:
        with live_server(request_seconds=0.5) as server:
            connection = asking(server, stream=True)
            until(lambda: server.engine.tickets)
            assert server.engine.tickets[0].ended.wait(5)
            until(lambda: server.served.desk.places.taken == 0)
            connection.close()

    def test_many_of_them_leave_nothing_behind(self, server: LiveServer) -> None:
        for number in range(40):
            asking(server, stream=number % 2 == 0).close()
        until(lambda: not server.engine.running)
        until(lambda: server.served.desk.places.taken == 0)
        assert server.chat("say: a").status_code == 200


class TestTheEnd:
    def test_answers_end_before_the_server_does(self) -> None:
        with live_server() as server:
            found: list[Any] = []
            ask = threading.Thread(target=lambda: found.append(server.events("slow", max_tokens=40)))
            ask.start()
            until(lambda: server.engine.running)
            server.served.draining = server.server.should_exit = True
            # Nobody new is let in.
            until(lambda: not is_open(server))
            ask.join(10)
            assert found[0][-1] == "[DONE]"
            assert found[0][-2]["choices"][0]["finish_reason"] == "length"

    def test_what_takes_too_long_is_given_up(self) -> None:
        with live_server(drain_seconds=0.4) as server:
            connection = asking(server, stream=True)
            until(lambda: server.engine.running)
            start = time.monotonic()
            server.server.should_exit = True
            assert server.engine.tickets[0].ended.wait(8)
            assert server.engine.tickets[0].left.is_set()
            assert time.monotonic() - start < 8
            connection.close()

    def test_while_answers_end_it_is_not_ready(self) -> None:
        with live_server() as server, server.client() as client:
            server.served.draining = True
            assert (client.get("/ready").status_code, client.get("/health").status_code) == (503, 200)


def is_open(server: LiveServer) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except OSError:
        return False
    return True


class TestRunsThatComeAndGo:
    @pytest.fixture
    def runs(self, tmp_path: Path) -> Path:
        for name in ("sales", "broken", "base"):
            (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "outside").mkdir()
        (tmp_path / "runs" / "a file").write_text("")
        return tmp_path / "runs"

    @pytest.fixture
    def server(self, runs: Path) -> Iterator[LiveServer]:
        from support.engines.scripted import ScriptedEngine

        voice = small_voice()
        engine = ScriptedEngine(voice.tokenizer)
        self.loaded: list[Path] = []

        def load(directory: Path) -> Voice:
            self.loaded.append(directory)
            if directory.name == "broken":
                raise ArgumentsError("broken is no adapter of the base model that this server has")
            return voice

        lineup = Lineup(engine, dict.fromkeys(engine.models(), voice), runs_directory=runs, load_voice=load)
        keys = Keys(clients=keys_in(KEY), admin=keys_in(ADMIN))
        with live_server(engine, lineup=lineup, keys=keys, runs_directory=runs) as running:
            yield running

    def admin(self, server: LiveServer) -> Any:
        return server.client(Authorization=f"Bearer {ADMIN}")

    def test_a_run_is_loaded_answers_and_is_dropped(self, server: LiveServer, runs: Path) -> None:
        with self.admin(server) as client:
            card = client.post("/v1/models", json={"id": "sales"}).json()
            assert (card["id"], card["parent"]) == ("sales", "base")
            assert self.loaded == [runs / "sales"]
            assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["base", "support", "sales"]
            body = {"messages": [{"role": "user", "content": "say: a"}], "model": "sales"}
            assert client.post("/v1/chat/completions", json=body).json()["model"] == "sales"
            assert client.delete("/v1/models/sales").json() == {"id": "sales", "object": "model", "deleted": True}
            assert client.post("/v1/chat/completions", json=body).status_code == 404
            assert client.delete("/v1/models/sales").status_code == 404

    @pytest.mark.parametrize(
        "name", ["../outside", "..", ".", "", "/etc", "sales/", "a file", "nowhere", "sales\x00", "./sales", "x" * 5000]
    )
    def test_a_name_is_looked_up_and_is_no_path(self, server: LiveServer, name: str) -> None:
        with self.admin(server) as client:
            response = client.post("/v1/models", json={"id": name})
        assert response.status_code == 404
        assert self.loaded == []

    @pytest.mark.parametrize("body", [{}, {"id": 5}, {"id": "sales", "path": "/etc"}, {"path": "sales"}, {"id": None}])
    def test_what_is_no_name(self, server: LiveServer, body: Any) -> None:
        with self.admin(server) as client:
            assert client.post("/v1/models", json=body).status_code == 400
        assert self.loaded == []

    def test_what_cannot_be_loaded_is_told(self, server: LiveServer) -> None:
        with self.admin(server) as client:
            error = client.post("/v1/models", json={"id": "broken"}).json()["error"]
            assert (error["param"], error["message"]) == (
                "id", "broken is no adapter of the base model that this server has",
            )  # fmt: skip
            # The names of the engine are taken.
            assert client.post("/v1/models", json={"id": "base"}).status_code == 400
            assert client.delete("/v1/models/base").status_code == 400

    @pytest.mark.parametrize("given", ["", f"Bearer {KEY}", "Bearer x"])
    def test_only_an_admin_may(self, server: LiveServer, given: str) -> None:
        with server.client(Authorization=given) as client:
            assert client.post("/v1/models", json={"id": "sales"}).status_code == 401
            assert client.delete("/v1/models/support").status_code == 401
        assert self.loaded == []
        assert "support" in server.served.lineup.models

    def test_without_a_directory_nobody_may(self) -> None:
        with live_server() as server, self.admin(server) as client:
            assert client.post("/v1/models", json={"id": "sales"}).status_code == 403
            assert client.delete("/v1/models/support").status_code == 403


def test_a_connection_serves_many_requests(server: LiveServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    body = json.dumps({"messages": [{"role": "user", "content": "say: a"}]})
    for _ in range(5):
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["choices"][0]["message"]["content"] == "a"
    connection.close()
