"""An application -> a server that listens, bounds how long a request may take to arrive, and ends as it is asked to."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from neuralchat.console import note
from neuralchat.errors import NeuralChatError
from neuralchat.inference.server.door import quiet_server_log
from neuralchat.inference.server.settings import ServerSettings

MOST_HEAD_BYTES = 1 << 15
KEEP_ALIVE_S = 5
# Connections beyond the requests that may be open: idle ones, those that ask for health, and those that are refused.
OTHER_CONNECTIONS = 512
# How long the second signal waits for the process to end by itself.
GRACE_S = 1.0


class ListenError(NeuralChatError):
    """An address on which the server cannot listen."""


class BoundedProtocol(H11Protocol):
    """uvicorn's, which waits for the head of a request as long as its client likes."""

    header_seconds = 10.0
    head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.wait_for_head()

    def data_received(self, data: bytes) -> None:
        requests = self.cycle
        super().data_received(data)
        if self.cycle is not requests:
            self.head_came()
        elif self.cycle is None or self.cycle.response_complete:
            # A part of the next head.
            self.wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.head_came()
        super().connection_lost(exc)

    def wait_for_head(self) -> None:
        if self.head_timer is None:
            self.head_timer = self.loop.call_later(self.header_seconds, self.head_is_late)

    def head_came(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def head_is_late(self) -> None:
        self.head_timer = None
        if not self.transport.is_closing():
            self.transport.close()


class DrainingServer(uvicorn.Server):
    """The first signal lets the answers end, and the process with status 0; the second ends it at once.

    `on_drain` is called then, from the signal's handler; `on_start` when clients can come.
    """

    def __init__(self, config: uvicorn.Config, *, on_start: Callable[[], None], on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_start = on_start
        self.on_drain = on_drain
        self.stopped_by: int | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's raises the signal again when all has ended, so that the process would not end with status 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        if not self.should_exit:
            self.should_exit = True
            self.on_drain()
            return
        if self.stopped_by is None:
            self.stopped_by = sig
            self.force_exit = True
            # Whatever hangs then.
            late = threading.Timer(GRACE_S, os._exit, (128 + sig,))
            late.daemon = True
            late.start()


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within, while models are loaded, SIGTERM ends the process as an error would, and all that it started with it.

    The first process of a container would not heed it otherwise.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        # They heed no SIGTERM, and Python waits for them when it ends: until a model that nobody wants is loaded.
        for child in multiprocessing.active_children():
            child.kill()
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def listening_socket(settings: ServerSettings) -> socket.socket:
    """Taken before models are loaded: an address that is in use is told at once. Raises ListenError."""
    host = settings.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Two may bind an address on which nobody listens yet; who connects meanwhile waits until models are loaded.
        listener.listen()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ListenError(
            f"the server cannot listen on {settings.host} port {settings.port}: {reason}; --port names another"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL at which clients reach it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def server_of(
    app: ASGIApp,
    settings: ServerSettings,
    *,
    on_start: Callable[[], None] = lambda: None,
    on_drain: Callable[[], None] = lambda: None,
) -> DrainingServer:
    quiet_server_log()
    protocol = type("Protocol", (BoundedProtocol,), {"header_seconds": settings.header_seconds})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # What a proxy says of its clients is not looked at.
        proxy_headers=False,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(round(settings.drain_seconds), 0),
        limit_concurrency=settings.max_open_requests + OTHER_CONNECTIONS,
    )
    return DrainingServer(config, on_start=on_start, on_drain=on_drain)


def run_until_stopped(server: DrainingServer, listener: socket.socket) -> int:
    """Serve until a signal comes; returns the exit status."""
    server.run(sockets=[listener])
    if server.stopped_by is not None:
        return 128 + server.stopped_by
    note("the server has ended")
    return 0
