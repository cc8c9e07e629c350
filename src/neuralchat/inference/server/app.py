"""The routes of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from neuralchat.errors import NeuralChatError
from neuralchat.inference.engine.interface import Engine, UnknownModelError
from neuralchat.inference.server.bodies import json_object
from neuralchat.inference.server.door import Door, Metrics, log_request
from neuralchat.inference.server.fields import AnswerFields, ChatFields, ResponseFields, TextFields, fields_of
from neuralchat.inference.server.lineup import Lineup
from neuralchat.inference.server.refusals import (
    SECONDS_AFTER_DOWN,
    ClientLeftError,
    RefusedRequestError,
    refused_by,
    wrong,
)
from neuralchat.inference.server.responding import (
    JOINED_HEADER,
    AnswerDesk,
    AnswerResponse,
    Places,
    joined_header,
)
from neuralchat.inference.server.responses_api.response_shape import ResponseShape
from neuralchat.inference.server.settings import ServerSettings
from neuralchat.inference.server.shapes import ChatShape, Shape, TextShape, json_bytes
from neuralchat.inference.server.understanding import asked_chat, prompt_of, wanted_chat, wanted_response, wanted_text

Result = TypeVar("Result")
# How a status of the routes themselves is told, such as that of a path that there is not.
NOT_FOUND, NOT_ALLOWED = "there is nothing at this path", "this path does not take this method"


class Served:
    """What the routes work with. `draining`: the server takes nothing more and ends soon."""

    def __init__(self, engine: Engine, lineup: Lineup, settings: ServerSettings) -> None:
        self.lineup = lineup
        self.settings = settings
        self.metrics = Metrics(engine)
        self.desk = AnswerDesk(engine, Places(settings.max_open_requests), self.metrics)
        self.draining = False

    async def body(self, request: HttpRequest) -> dict[str, Any]:
        settings = self.settings
        body = await json_object(
            request, most_bytes=settings.max_body_kib << 10, seconds=min(settings.request_seconds, 60.0)
        )
        if settings.log_requests:
            log_request(body)
        return body

    async def understood(self, work: Callable[..., Result], *parts: Any) -> Result:
        """Templates and tokenizers take their time, in which others are answered."""
        async with self.desk.readers:
            return await asyncio.to_thread(work, *parts)

    async def answer(
        self, request: HttpRequest, kind: type[AnswerFields], work: Callable[..., Any], shape: type[Shape]
    ) -> Response:
        # What waits to be read is held in memory, and so has a place too.
        with self.desk.places.one(is_answer=False):
            fields = fields_of(kind, await self.body(request))
            wanted = await self.understood(work, fields, self.lineup, self.settings)
        return AnswerResponse(self.desk, self.lineup.find(wanted.model), wanted, shape)

    # Who may ask

    def check_client(self, request: HttpRequest) -> None:
        if not self.settings.keys.admits(request.headers.get("authorization")):
            raise RefusedRequestError(
                401, "this server wants a key: 'Authorization: Bearer KEY'", code="invalid_api_key"
            )

    def check_admin(self, request: HttpRequest) -> None:
        if not self.settings.keys.admin or self.settings.runs_directory is None:
            message = "this server loads no runs while it serves; see --runs_directory and --admin_key_file"
            raise RefusedRequestError(403, message, code="not_enabled")
        if not self.settings.keys.admits_admin(request.headers.get("authorization")):
            raise RefusedRequestError(
                401, "this needs an admin's key: 'Authorization: Bearer KEY'", code="invalid_api_key"
            )


def make_app(served: Served, *, page: APIRouter | None = None) -> ASGIApp:
    """`page`: the routes of the page, if there is one."""
    # Its own documentation would load scripts from elsewhere.
    app = FastAPI(title="NeuralChat", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(RefusedRequestError, tell)
    app.add_exception_handler(NeuralChatError, tell)
    app.add_exception_handler(HTTPException, tell)
    app.add_exception_handler(Exception, tell)
    for left in (ClientLeftError, ClientDisconnect):
        app.add_exception_handler(left, say_nothing)
    app.include_router(answer_routes(served))
    app.include_router(model_routes(served))
    app.include_router(state_routes(served))
    if page is not None:
        app.include_router(page)
    inner: ASGIApp = app
    if served.settings.allowed_origins:
        inner = CORSMiddleware(
            app,
            allow_origins=served.settings.allowed_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "Content-Type"),
            expose_headers=(JOINED_HEADER, "Retry-After"),
        )
    return Door(inner, served.settings, served.metrics)


async def tell(_request: HttpRequest, error: Exception) -> Response:
    if isinstance(error, NeuralChatError):
        error = refused_by(error)
    if isinstance(error, HTTPException):
        message = {404: NOT_FOUND, 405: NOT_ALLOWED}.get(error.status_code, "the request cannot be answered")
        error = RefusedRequestError(error.status_code, message)
    if not isinstance(error, RefusedRequestError):
        # What it was is told in the log, at the door.
        error = RefusedRequestError(500, "the server has failed at this request", code="internal_error")
    return error.response()


class NoResponse(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send


async def say_nothing(_request: HttpRequest, _error: Exception) -> Response:
    """To a client that has left."""
    return NoResponse()


def answer_routes(served: Served) -> APIRouter:
    router = APIRouter(dependencies=[Depends(served.check_client)])

    @router.post("/v1/chat/completions")
    async def chat_completions(request: HttpRequest) -> Response:
        return await served.answer(request, ChatFields, wanted_chat, ChatShape)

    @router.post("/v1/completions")
    async def completions(request: HttpRequest) -> Response:
        return await served.answer(request, TextFields, wanted_text, TextShape)

    @router.post("/v1/responses")
    async def responses(request: HttpRequest) -> Response:
        return await served.answer(request, ResponseFields, wanted_response, ResponseShape)

    @router.post("/v1/render")
    async def render(request: HttpRequest) -> Response:
        """What the model would be given of such a chat request; whether it fits is not asked."""
        fields = fields_of(ChatFields, await served.body(request))
        model = served.lineup.find(fields.model)
        asked = await served.understood(asked_chat, fields, served.settings)
        ids = await served.understood(prompt_of, asked, model)
        shown = {"model": model.name, "ids": ids, "count": len(ids), "text": model.voice.spelled(ids)}
        headers = joined_header(asked.conversation.joined)
        return Response(json_bytes(shown), headers=headers, media_type="application/json")

    return router


def model_routes(served: Served) -> APIRouter:
    router, lineup = APIRouter(), served.lineup
    client, admin = [Depends(served.check_client)], [Depends(served.check_admin)]

    @router.get("/v1/models", dependencies=client)
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [model.card() for model in lineup.models.values()]}

    @router.get("/v1/models/{name:path}", dependencies=client)
    def model(name: str) -> dict[str, Any]:
        return lineup.find(name).card()

    @router.post("/v1/models", dependencies=admin)
    async def load(request: HttpRequest) -> dict[str, Any]:
        body = await served.body(request)
        name = body.get("id")
        if set(body) != {"id"} or not isinstance(name, str):
            raise wrong("id", 'the body must be {"id": the name of a run in the directory of runs}')
        try:
            return (await asyncio.to_thread(lineup.add, name)).card()
        except UnknownModelError:
            raise
        except NeuralChatError as error:
            raise refused_by(error, param="id") from error

    @router.delete("/v1/models/{name:path}", dependencies=admin)
    async def drop(name: str) -> dict[str, Any]:
        await asyncio.to_thread(lineup.remove, name)
        return {"id": name, "object": "model", "deleted": True}

    return router


def state_routes(served: Served) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, str]:
        """The server lives; whether the engine does is the question of /ready."""
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> JSONResponse:
        if served.draining:
            return JSONResponse({"status": "draining"}, 503)
        try:
            status = await asyncio.to_thread(served.desk.engine.status)
        except NeuralChatError:
            status = None
        # An engine in a process of its own says whether that is there.
        if status is None or not getattr(served.desk.engine, "is_ready", True):
            return JSONResponse({"status": "down"}, 503, headers={"Retry-After": str(SECONDS_AFTER_DOWN)})
        return JSONResponse({"status": "ready", "running": status.running, "waiting": status.waiting})

    @router.get("/metrics", dependencies=[Depends(served.check_client)])
    def metrics() -> Response:
        return Response(served.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
