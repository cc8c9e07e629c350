"""The page at `/`: its files, and what its buttons need beside the OpenAI interface. Mounted by the server.

Nothing of a request reaches the file system: the files are read once, by a list of names. No script or style but the
page's own runs (Content-Security-Policy), and HTML enters the page by one door only (Trusted Types), for what
`clean_html` returned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from neuralchat.errors import NeuralChatError
from neuralchat.inference.page.feedback import FeedbackFile, rated_answer
from neuralchat.inference.page.markdown import LONGEST_RENDERED, MOST_RENDERED, clean_html

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
INDEX = "index.html"
MOST_BODY_BYTES = 1 << 21
MOST_TEXTS_AT_ONCE = 200
PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "trusted-types neuralchat",
        "require-trusted-types-for 'script'",
    )
)
SAFE_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class PageSettings:
    """`feedback`: where rated answers go; None: the page has no thumbs.

    `guards`: dependencies (`fastapi.Depends`) of the requests that do something, such as the check of the key; the
    page's own files need none.
    """

    feedback: FeedbackFile | None = None
    guards: Sequence[Any] = ()


@dataclass(frozen=True)
class PageFile:
    content: bytes
    media_type: str
    tag: str


class RefusedError(Exception):
    """A request of the page that is answered with an error, in the form that the OpenAI interface has."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def page_files() -> dict[str, PageFile]:
    """Name -> content, of all files of the page."""
    found = {}
    for entry in resources.files("neuralchat.inference.page").joinpath("static").iterdir():
        ending = entry.name[entry.name.rfind(".") :]
        if ending in MEDIA_TYPES:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = PageFile(content, f"{MEDIA_TYPES[ending]}; charset=utf-8", tag)
    return found


def page_router(settings: PageSettings) -> APIRouter:
    """`/`, `/page/FILE`, `/page/settings`, `/page/render` and `/page/feedback`."""
    router = APIRouter(include_in_schema=False)
    files = page_files()

    @router.api_route("/", methods=["GET", "HEAD"])
    def index(request: Request) -> Response:
        return file_answer(files[INDEX], request)

    @router.get("/page/settings")
    def page_settings() -> Response:
        return json_answer({"feedback": settings.feedback is not None})

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    def page_file(name: str, request: Request) -> Response:
        if name not in files or name == INDEX:
            return page_refusal(RefusedError(404, "the page has no such file"))
        return file_answer(files[name], request)

    @router.post("/page/render", dependencies=list(settings.guards))
    async def render(request: Request) -> Response:
        try:
            texts = asked_texts(await page_body(request))
        except RefusedError as error:
            return page_refusal(error)
        return json_answer({"html": await run_in_threadpool(rendered_texts, texts)})

    @router.post("/page/feedback", dependencies=list(settings.guards))
    async def feedback(request: Request) -> Response:
        try:
            if settings.feedback is None:
                raise RefusedError(404, "the server keeps no feedback; it was started without --feedback FILE")
            answer = rating_of(await page_body(request))
            await run_in_threadpool(settings.feedback.add, answer)
        except RefusedError as error:
            return page_refusal(error)
        except OSError as error:
            return page_refusal(RefusedError(500, f"the feedback was not kept: {error.strerror or error}"))
        return json_answer({"feedback": answer.rating})

    return router


def file_answer(file: PageFile, request: Request) -> Response:
    """A file, or the word that the browser has it already; it asks each time, so that it never keeps an old page."""
    headers = {**SAFE_HEADERS, "Cache-Control": "no-cache", "ETag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def json_answer(value: Any, status: int = 200) -> Response:
    return JSONResponse(value, status, headers={**SAFE_HEADERS, "Cache-Control": "no-store"})


def page_refusal(error: RefusedError) -> Response:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return json_answer({"error": {"message": str(error), "type": kind, "param": None, "code": None}}, error.status)


def rating_of(value: Any) -> Any:
    try:
        return rated_answer(value)
    except NeuralChatError as error:
        raise RefusedError(400, str(error)) from error


def rendered_texts(texts: list[str]) -> list[str | None]:
    """HTML of each text; None for one that is too long, which the page shows as it is."""
    return [clean_html(text) if len(text) <= LONGEST_RENDERED else None for text in texts]


def asked_texts(value: Any) -> list[str]:
    """The texts that are to be rendered. Raises RefusedError for anything else, and for too much of it."""
    texts = value.get("texts") if isinstance(value, dict) and set(value) == {"texts"} else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RefusedError(400, "expected an object with 'texts', a list of texts")
    if len(texts) > MOST_TEXTS_AT_ONCE:
        raise RefusedError(413, f"found {len(texts)} texts; at most {MOST_TEXTS_AT_ONCE} are rendered at once")
    if sum(map(len, texts)) > MOST_RENDERED:
        raise RefusedError(413, f"at most {MOST_RENDERED:,} characters are rendered at once")
    if any("\ud800" <= character < "\ue000" for text in texts for character in text):
        raise RefusedError(400, "a text holds half of a surrogate pair, which is not text")
    return texts


async def page_body(request: Request) -> Any:
    """The body of a request that this page has sent. Raises RefusedError for any other, and for a large one.

    A page elsewhere can send a form or plain text to this server without being asked, but no JSON.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise RefusedError(403, "only the page of this server may ask for this")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "the body must be JSON, with Content-Type: application/json")
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MOST_BODY_BYTES:
            raise RefusedError(413, f"the body is larger than {MOST_BODY_BYTES >> 20} MiB")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not JSON") from None
