"""The server on a free port of loopback, with a scripted engine behind it; and a client without manners."""

from __future__ import annotations

import functools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from neuralchat.data.templates.making import make_template
from neuralchat.inference.server.app import Served, make_app
from neuralchat.inference.server.lineup import Lineup
from neuralchat.inference.server.running import DrainingServer, listening_socket, server_of, url_of
from neuralchat.inference.server.serving import page_of
from neuralchat.inference.server.settings import ServerSettings
from neuralchat.inference.voice import Voice
from neuralchat.inference.window import Window
from support.engines.scripted import ScriptedEngine
from support.notes import kept_notes
from support.small_models import make_tokenizer

ROOM = 512


def forked_engines() -> None:
    """For `neuralchat serve` in a process that has no threads yet: a fresh one would import everything anew."""
    from neuralchat.inference.engine.process import ProcessEngine
    from neuralchat.inference.server import serving

    serving.ProcessEngine = functools.partial(ProcessEngine, start_method="fork")  # type: ignore[misc, assignment]


@dataclass
class LiveServer:
    """`log`: the lines that the server has logged."""

    url: str
    engine: Any
    served: Served
    server: DrainingServer
    log: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **headers: str) -> httpx.Client:
        # Reading the certificates would take longer than most tests.
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False, verify=False)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body, **options)

    def chat(self, content: str = "Name a colour.", **fields: Any) -> httpx.Response:
        messages = fields.pop("messages", [{"role": "user", "content": content}])
        return self.post("/v1/chat/completions", {"messages": messages, **fields})

    def events(self, content: str = "Name a colour.", **fields: Any) -> list[Any]:
        """The chunks of a stream, "[DONE]" the last."""
        return events_in(self.chat(content, stream=True, **fields).text)


def events_in(text: str) -> list[Any]:
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [block[6:] if block == "data: [DONE]" else json.loads(block[6:]) for block in blocks]


def until(happened: Callable[[], Any], seconds: float = 10) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def small_voice(template: str = "chat", *, tokenizer: Any = None) -> Voice:
    tokenizer = tokenizer or make_tokenizer()
    return Voice(tokenizer, make_template(template, tokenizer), Window(None, ROOM))


@contextmanager
def live_server(engine: Any = None, *, lineup: Lineup | None = None, **settings: Any) -> Iterator[LiveServer]:
    """Without a lineup, "support" speaks by a chat template, and "base" beside it too."""
    voice = small_voice()
    engine = engine or ScriptedEngine(voice.tokenizer)
    chosen = ServerSettings(port=0, **settings)
    lineup = lineup or Lineup(engine, dict.fromkeys(engine.models(), voice), runs_directory=chosen.runs_directory)
    served = Served(engine, lineup, chosen)
    server = server_of(make_app(served, page=page_of(served)), chosen)
    with kept_notes() as log, listening_socket(chosen) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.started or not thread.is_alive())
        try:
            yield LiveServer(url_of(listener), engine, served, server, log)
        finally:
            engine.close(drain=False)
            server.should_exit = server.force_exit = True
            thread.join(10)
    assert not thread.is_alive(), "the server has not ended"


def raw(port: int, data: bytes, *, wait: float = 5) -> bytes:
    """What the server answers to bytes, until it closes the connection or says nothing more for `wait` seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        connection.sendall(data)
        found = bytearray()
        try:
            while block := connection.recv(1 << 16):
                found += block
        except (TimeoutError, ConnectionResetError):
            pass
    return bytes(found)
