"""Who may ask and how much: keys, hosts and origins, sizes, times, places; what the log and the counters say."""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engines.scripted import ScriptedEngine
from support.live_server import LiveServer, live_server, raw, small_voice, until

from neuralchat.inference.server.settings import Keys, is_one_of, keys_in

KEY, OTHER = "a-first-key-of-clients", "a-second-key-of-clients"
ADMIN = "an-admins-key-for-runs"
BODY = {"messages": [{"role": "user", "content": "say: a"}]}


@pytest.fixture(scope="module")
def locked() -> Iterator[LiveServer]:
    with live_server(keys=Keys(clients=keys_in(f"# a comment\n{KEY}\n\n{OTHER}\n"), admin=keys_in(ADMIN))) as server:
        yield server


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/base", "/metrics"])
@pytest.mark.parametrize("given", [None, "", KEY, "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Basic a"])
def test_without_a_key_nobody_is_let_in(locked: LiveServer, path: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    with locked.client(**headers) as client:
        response = client.get(path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/render"])
def test_without_a_key_nothing_is_read(locked: LiveServer, path: str) -> None:
    assert locked.post(path, {"nonsense": 1}).status_code == 401


@pytest.mark.parametrize("given", [f"Bearer {KEY}", f"bearer {OTHER}", f"BEARER  {ADMIN}"])
def test_each_key_lets_in(locked: LiveServer, given: str) -> None:
    with locked.client(Authorization=given) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.post("/v1/chat/completions", json=BODY).status_code == 200


def test_health_needs_no_key(locked: LiveServer) -> None:
    with locked.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").json()["status"] == "ready"


def test_a_key_in_odd_bytes_is_a_wrong_one(locked: LiveServer) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer \xff\xfe\r\n\r\n"
    assert b" 401 " in raw(locked.port, head).splitlines()[0]


def test_keys_are_compared_in_constant_time() -> None:
    """The digests are, all of them, so that neither how much is right nor which key it is can be measured."""
    digests = keys_in("\n".join(f"key-number-{number:06}" for number in range(50)))

    def seconds(key: str) -> float:
        start = time.perf_counter()
        is_one_of(key, digests)
        return time.perf_counter() - start

    times = {key: [seconds(key) for _ in range(300)] for key in ("key-number-000000", "key-number-000049", "x" * 17)}
    middle = {key: statistics.median(found) for key, found in times.items()}
    assert max(middle.values()) < 3 * min(middle.values())


HOSTS_REFUSED = [
    "evil.example",
    "evil.example:80",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "10.0.0.1",
    "",
    "[::2]",
]
HOSTS_TAKEN = ["localhost", "LOCALHOST:123", "127.0.0.1:9", "[::1]:80", "[::1]", "localhost."]


def status_with(server: LiveServer, *lines: str, path: str = "/v1/models") -> int:
    head = "\r\n".join([f"GET {path} HTTP/1.1", "Connection: close", *lines]) + "\r\n\r\n"
    return int(raw(server.port, head.encode()).split(b" ", 2)[1])


@pytest.mark.parametrize(("hosts", "status"), [(HOSTS_REFUSED, 403), (HOSTS_TAKEN, 200)])
def test_a_name_that_leads_here_by_dns_is_refused(server: LiveServer, hosts: list[str], status: int) -> None:
    for host in hosts:
        assert status_with(server, f"Host: {host}") == status, host
    assert status_with(server, "Host: localhost", "Host: evil.example") == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403), ("https://localhost.evil.example", 403), ("null", 403), ("http://localhost", 403),
        ("http://localhost:7", 200), ("https://LOCALHOST:7", 200),
    ],
)  # fmt: skip
def test_pages_of_other_sites_may_not_ask(server: LiveServer, origin: str, status: int) -> None:
    assert status_with(server, "Host: localhost:7", f"Origin: {origin}") == status


def test_names_and_sites_may_be_allowed() -> None:
    with live_server(allowed_hosts=("chat.example",), allowed_origins=("https://pages.example",)) as server:
        assert status_with(server, "Host: chat.example:80") == 200
        assert status_with(server, "Host: other.example") == 403
        with server.client(Origin="https://pages.example") as client:
            assert client.get("/v1/models").headers["access-control-allow-origin"] == "https://pages.example"
            asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
            assert client.options("/v1/chat/completions", headers=asks).status_code == 200
        assert status_with(server, "Host: localhost", "Origin: https://others.example") == 403


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "", "application/jsonx"],
)
def test_only_json_is_read(server: LiveServer, kind: str) -> None:
    """What a page elsewhere can send without asking is none."""
    with server.client() as client:
        response = client.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": kind})
    assert response.status_code == 415
    assert "application/json" in response.json()["error"]["message"]


def test_compressed_bodies_are_not_read(server: LiveServer) -> None:
    with server.client() as client:
        response = client.post(
            "/v1/chat/completions",
            content=b"x",
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        )
    assert response.status_code == 415


def test_a_body_that_is_too_large() -> None:
    with live_server(max_body_kib=4) as server:
        assert server.chat("a" * 3000).status_code == 400
        response = server.chat("a" * 5000)
        assert response.status_code == 413
        assert "4 KiB" in response.json()["error"]["message"]
        # Nobody says how much it will be, or says less.
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        chunk = b"800\r\n" + b" " * 0x800 + b"\r\n"
        found = raw(server.port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 4, wait=0.3)
        assert found.startswith(b"HTTP/1.1 413 ")
        found = raw(server.port, head + b"Content-Length: 99999999999999999999\r\n\r\n", wait=0.3)
        assert found.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))


def test_a_head_that_is_too_large_or_none(server: LiveServer) -> None:
    for data in (b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 17), b"\x16\x03\x01\x02\x00\x01\x00", b"NONSENSE\r\n\r\n"):
        assert raw(server.port, data, wait=2).split(b"\r\n")[0] in (b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 400 ", b"")
    assert server.chat("say: a").status_code == 200


def is_closed_though_a_byte_comes_now_and_then(connection: socket.socket, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            connection.sendall(b"G")
            time.sleep(0.05)
    except OSError:
        return True
    return False


def test_a_head_that_does_not_come_is_not_waited_for() -> None:
    with live_server(header_seconds=0.2) as server:
        for beginning in (b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: a\r\nX"):
            start = time.monotonic()
            raw(server.port, beginning, wait=8)
            assert time.monotonic() - start < 4
        # A byte now and then does not help, nor does a request that was whole.
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in connection.recv(1 << 16)
            assert is_closed_though_a_byte_comes_now_and_then(connection)
        # A request that is whole may take longer.
        assert server.chat("slow", max_tokens=40).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    with live_server(request_seconds=0.3) as server:
        lines = (
            b"POST /v1/render HTTP/1.1",
            b"Host: localhost",
            b"Content-Type: application/json",
            b"Content-Length: 9",
        )
        head = b"\r\n".join(lines) + b"\r\n\r\n{"
        assert raw(server.port, head, wait=1).split(b" ")[1] in (b"408", b"504")


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_ends(stream: bool) -> None:
    with live_server(request_seconds=0.3, most_new_tokens=4096) as server:
        if stream:
            found = raw(
                server.port,
                request_bytes(
                    {**BODY, "messages": [{"role": "user", "content": "slow"}], "stream": True, "max_tokens": 480}
                ),
                wait=4,
            )
            assert b"data: {" in found
            assert b"[DONE]" not in found
        else:
            response = server.chat("slow", max_tokens=480)
            assert response.status_code == 504
            assert response.json()["error"]["code"] == "timeout"
        assert server.engine.tickets[-1].ended.wait(5)
        assert server.engine.tickets[-1].left.is_set()
        until(lambda: server.served.desk.places.taken == 0)


def request_bytes(body: Any, path: str = "/v1/chat/completions") -> bytes:
    data = json.dumps(body).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def test_when_all_places_are_taken_others_are_told_when_to_come_back() -> None:
    with live_server(max_open_requests=2) as server:
        threads = [threading.Thread(target=server.chat, args=("slow",), kwargs={"max_tokens": 400}) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: len(server.engine.running) == 2)
        response = server.chat("say: a")
        assert response.status_code == 429
        assert 1 <= int(response.headers["retry-after"]) <= 30
        assert response.json()["error"]["type"] == "rate_limit_error"
        # Who only looks is not kept out.
        with server.client() as client:
            assert client.get("/health").status_code == client.get("/v1/models").status_code == 200
        for ticket in server.engine.tickets:
            ticket.cancel()
        for thread in threads:
            thread.join()
        assert server.chat("say: a").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_takes_no_more(stream: bool) -> None:
    """Of several answers none is given, and those that were taken are given up."""
    engine = ScriptedEngine(small_voice().tokenizer, room=2)
    with live_server(engine) as server:
        response = server.chat("slow", n=3, max_tokens=400, stream=stream)
        assert response.status_code == 429
        assert response.headers["retry-after"]
        assert len(engine.tickets) == 2
        until(lambda: not engine.running)
        assert server.chat("say: a", n=2).status_code == 200


def test_an_engine_that_is_down_is_told_and_asked_again() -> None:
    with live_server() as server:
        server.engine.down = "the engine begins anew"
        for stream in (False, True):
            response = server.chat("say: a", stream=stream)
            assert (response.status_code, response.headers["retry-after"]) == (503, "2")
            assert response.json()["error"]["message"] == "the engine begins anew"
        with server.client() as client:
            assert client.get("/ready").status_code == 503
            assert client.get("/health").status_code == 200
            assert client.get("/metrics").status_code == 200
        server.engine.down = ""
        assert server.chat("say: a").status_code == 200


def test_a_line_in_the_log_for_each_request_and_nothing_of_what_was_asked(server: LiveServer) -> None:
    secret = "what-nobody-else-may-read"
    del server.log[:]
    server.chat(f"say: {secret}")
    server.chat(secret, nonsense=secret)
    server.chat(model=f"{secret}\nERROR forged")
    with server.client() as client:
        client.get(f"/{secret}%0aERROR")
        client.request("FORGED", "/health")
        client.get("/v1/models/base", params={"a": secret})
    # The line is written when all has been sent.
    until(lambda: len(server.log) == 6)
    lines = "\n".join(server.log)
    assert secret not in lines
    assert "ERROR" not in lines
    assert "FORGED" not in lines
    assert server.log[0].startswith("POST /v1/chat/completions 200 ")
    assert server.log[0].endswith(" tokens")
    assert server.log[3].startswith("GET (none) 404 ")
    assert server.log[5].startswith("GET /v1/models/{name:path} 200 ")


def test_what_is_asked_is_logged_on_one_line_where_it_is_wanted() -> None:
    with live_server(log_requests=True) as server:
        server.chat("say: a\n\x1b[31mGET / 200")
        asked = [line for line in server.log if line.startswith("asked: ")]
        assert len(asked) == 1
        assert r"say: a\n\u001b[31mGET / 200" in asked[0]
        assert "\n" not in asked[0]


def test_a_fault_of_ours_is_told_without_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with live_server() as server:

        def fail(_turns: Any, _tools: Any = ()) -> Any:
            raise RuntimeError("it holds what-nobody-else-may-read")

        voice = server.served.lineup.find("support").voice
        monkeypatch.setattr(voice, "whole_prompt", fail)
        response = server.chat("say: what-nobody-else-may-read")
        assert response.status_code == 500
        assert response.json()["error"] == {
            "message": "the server has failed at this request", "type": "server_error", "param": None,
            "code": "internal_error",
        }  # fmt: skip
        until(lambda: len(server.log) == 2)
        assert server.log[0].startswith("a request has failed: RuntimeError in ")
        assert "nobody" not in "".join(server.log)
        assert server.chat("say: a", model="base").status_code == 500


def test_counters(server: LiveServer) -> None:
    def value(name: str) -> float:
        with server.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    answers = 'neuralchat_tokens_total{kind="answer",model="support"}'
    asked = 'neuralchat_requests_total{method="POST",route="/v1/chat/completions",status="200"}'
    before = value(answers), value(asked)
    count = server.chat("say: Blue.").json()["usage"]["completion_tokens"]
    assert (value(answers) - before[0], value(asked) - before[1]) == (count, 1)
    server.chat(model="forged\n{a}")
    with server.client() as client:
        client.get("/forged/path")
        page = client.get("/metrics").text
    assert "forged" not in page
    assert "neuralchat_engine_generated_tokens_total 11.0" in page
    assert value("neuralchat_first_token_seconds_count") > 0


def test_keys_and_addresses_that_do_not_fit_together(tmp_path: Path) -> None:
    from neuralchat.errors import ArgumentsError
    from neuralchat.inference.server.settings import ServerSettings

    with pytest.raises(ArgumentsError, match="a key is needed"):
        ServerSettings(host="0.0.0.0")
    with pytest.raises(ArgumentsError, match="a key is needed"):
        ServerSettings(host="chat.example")
    assert ServerSettings(host="0.0.0.0", keys=Keys(clients=keys_in(KEY)))
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"):
        assert ServerSettings(host=host).is_loopback
    with pytest.raises(ArgumentsError, match="at least 16 characters"):
        keys_in("short")
    with pytest.raises(ArgumentsError, match=r"--request_seconds must be at least(.|\n)*--port must be at most 65535"):
        ServerSettings(port=70_000, request_seconds=float("nan"))
    with pytest.raises(ArgumentsError, match="--admin_key_file"):
        ServerSettings(runs_directory=tmp_path)


def test_keys_of_the_environment_and_of_a_file_are_all_good(tmp_path: Path) -> None:
    from neuralchat import cli
    from neuralchat.errors import ArgumentsError
    from neuralchat.inference.sampling import Sampling
    from neuralchat.inference.server.settings import KEY_VARIABLE, settings_from

    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)
    options = cli.make_parser().parse_args(["serve", "run", "--key_file", str(file), "--allowed_hosts", "a.b,c.d"])
    settings = settings_from(options, Sampling(), {KEY_VARIABLE: OTHER})
    assert settings.allowed_hosts == ("a.b", "c.d")
    assert [settings.keys.admits(f"Bearer {key}") for key in (KEY, OTHER, ADMIN)] == [True, True, False]
    assert KEY not in repr(settings)
    file.write_text("# nothing\n")
    with pytest.raises(ArgumentsError, match="holds no key"):
        settings_from(options, Sampling(), {})
