"""What every request passes: whether it may come in at all, how long it may stay, its line in the log, counters.

A page that a browser of this machine shows may send requests to loopback, by another name too (DNS rebinding); it
cannot hide where it comes from.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuralchat.console import inform, log
from neuralchat.errors import NeuralChatError
from neuralchat.inference.engine.interface import Engine
from neuralchat.inference.server.refusals import RefusedRequestError
from neuralchat.inference.server.settings import ServerSettings

METHODS_KNOWN = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# What the log says of a client that went, for which there is no status.
LEFT = 499
SECONDS_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


@dataclass
class Visit:
    """One request: when it came, the tokens of its prompt and of its answers, and whether its client has left."""

    started: float = field(default_factory=time.perf_counter)
    tokens: tuple[int, int] | None = None
    left: bool = False

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


class EngineCollector(Collector):
    """What the engine says of itself at the moment when it is asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def describe(self) -> Iterator[Metric]:
        # Without it the engine would be asked once at the start.
        return iter(())

    def collect(self) -> Iterator[Metric]:
        try:
            status = self.engine.status()
        except NeuralChatError:
            return
        for name, text in (
            ("running", "Answers that are being computed"),
            ("waiting", "Answers that wait"),
            ("memory_tokens", "Tokens that keys and values have room for"),
            ("memory_tokens_used", "Tokens whose keys and values are held by answers"),
        ):
            yield GaugeMetricFamily(f"neuralchat_engine_{name}", text, value=getattr(status, name))
        for name, text in (
            ("prompt_tokens", "Tokens of prompts"),
            ("cached_prompt_tokens", "Tokens of prompts that had not to be computed again"),
            ("generated_tokens", "Tokens of answers"),
        ):
            yield CounterMetricFamily(f"neuralchat_engine_{name}", text, value=getattr(status, f"{name}_total"))


class Metrics:
    """Counters for Prometheus. Their labels are routes and models that there are, never what a request says."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine))
        self.requests = Counter(
            "neuralchat_requests", "Requests", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "neuralchat_request_seconds",
            "Seconds from a request's head to the end of its response",
            ["route"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.first_token_seconds = Histogram(
            "neuralchat_first_token_seconds",
            "Seconds from a request's head to the first word of its answer",
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.token_counts = Counter(
            "neuralchat_tokens", "Tokens of prompts and of answers", ["model", "kind"], registry=self.registry
        )

    def page(self) -> bytes:
        return generate_latest(self.registry)

    def visited(self, method: str, route: str, status: int, seconds: float) -> None:
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def first_token(self, visit: Visit) -> None:
        self.first_token_seconds.observe(visit.seconds)

    def tokens(self, model: str, prompt: int, answer: int) -> None:
        self.token_counts.labels(model, "prompt").inc(prompt)
        self.token_counts.labels(model, "answer").inc(answer)


class Door:
    """The outermost application. Nothing that goes wrong inside reaches the server's own log, which quotes requests."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.names = {name.lower().strip("[]") for name in (*LOOPBACK_NAMES, settings.host, *settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        visit = scope["state"]["visit"] = Visit()
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refused = await self.passed(scope, receive, noted)
            if refused is not None and not status:
                await refused.response()(scope, receive, noted)
        finally:
            self.note_visit(scope, visit, LEFT if visit.left else status or LEFT)

    async def passed(self, scope: Scope, receive: Receive, send: Send) -> RefusedRequestError | None:
        """Let a request in; returns what is answered where it came to nothing."""
        if (refused := self.refusal(scope)) is not None:
            return refused
        seconds = self.settings.request_seconds
        try:
            async with asyncio.timeout(seconds):
                await self.app(scope, receive, send)
        except TimeoutError:
            return RefusedRequestError(504, f"the request was not answered within {seconds:g} seconds", code="timeout")
        except Exception as error:
            log.error("%s", place_of_error(error))
            return RefusedRequestError(500, "the server has failed at this request", code="internal_error")
        return None

    def refusal(self, scope: Scope) -> RefusedRequestError | None:
        headers = scope["headers"]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            return RefusedRequestError(400, "a request has one Host header")
        if (self.settings.is_loopback or self.settings.allowed_hosts) and name_in(hosts[0]) not in self.names:
            return RefusedRequestError(
                403, "the Host header names another host than this server; see --allowed_hosts", code="wrong_host"
            )
        for origin in (value.decode("latin-1") for name, value in headers if name == b"origin"):
            own = origin.partition("://")[2].lower() == hosts[0].lower()
            if not own and origin not in self.settings.allowed_origins:
                return RefusedRequestError(
                    403, "pages of other sites may not ask this server; see --allowed_origins", code="wrong_origin"
                )
        return None

    def note_visit(self, scope: Scope, visit: Visit, status: int) -> None:
        # The template of the route: the path itself is the client's own text.
        route = getattr(scope.get("route"), "path", None) or "(none)"
        method = scope["method"] if scope["method"] in METHODS_KNOWN else "(other)"
        self.metrics.visited(method, route, status, visit.seconds)
        tokens = ", {} + {} tokens".format(*visit.tokens) if visit.tokens else ""
        inform(f"{method} {route} {'client left' if status == LEFT else status} {visit.seconds:.3f} s{tokens}")


def name_in(host: str) -> str:
    """
    >>> name_in("LOCALHOST:8000"), name_in("[::1]:80"), name_in("a.example.")
    ('localhost', '::1', 'a.example')
    """
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")


def place_of_error(error: Exception) -> str:
    """Where a fault of ours is, without its message, which may quote a request."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"a request has failed: {type(error).__name__}{where}"


def log_request(body: dict[str, Any]) -> None:
    """What is asked, on one line; only where the settings want it."""
    inform(f"asked: {json.dumps(body)}")


class ToOurLog(logging.Handler):
    """Warnings of uvicorn go where ours go; they quote nothing of a request."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is None:
            log.warning("%s", record.getMessage().strip())


def quiet_server_log() -> None:
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers = [ToOurLog()] if name == "uvicorn.error" else [logging.NullHandler()]
        logger.setLevel(logging.WARNING)
