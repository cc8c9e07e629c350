"""The bytes of a request -> a JSON object of bounded size and depth, or why there is none."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, NoReturn

from fastapi import Request as HttpRequest

from neuralchat.inference.server.refusals import RefusedRequestError, wrong

MOST_DEPTH = 40
JSON_TYPE = "application/json"
WRONG_TYPE = (
    f"the body must be JSON with the header 'Content-Type: {JSON_TYPE}', which a page of another site cannot send"
)


async def json_object(request: HttpRequest, *, most_bytes: int, seconds: float) -> dict[str, Any]:
    """The fields of a request; those that are null are absent. Raises RefusedRequestError."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON_TYPE:
        raise RefusedRequestError(415, WRONG_TYPE, code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RefusedRequestError(415, "compressed bodies are not read", code="unsupported_media_type")
    try:
        async with asyncio.timeout(seconds):
            body = await whole_body(request, most_bytes)
    except TimeoutError:
        raise RefusedRequestError(408, f"the body did not come within {seconds:g} seconds") from None
    value = parsed(body)
    if not isinstance(value, dict):
        raise wrong(None, "the body must be a JSON object")
    return {name: item for name, item in value.items() if item is not None}


async def whole_body(request: HttpRequest, most_bytes: int) -> bytes:
    too_large = RefusedRequestError(413, f"the body is larger than {most_bytes >> 10} KiB", code="body_too_large")
    stated = request.headers.get("content-length", "")
    # int() takes no more than 4300 digits, and signs and spaces besides.
    if stated.isascii() and stated.isdigit() and (len(stated) > 15 or int(stated) > most_bytes):
        raise too_large
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > most_bytes:
            raise too_large
    return bytes(body)


def parsed(body: bytes) -> Any:
    """
    >>> parsed(b'{"a": [1]}')
    {'a': [1]}
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=no_constant)
    except UnicodeDecodeError:
        raise wrong(None, "the body is not UTF-8") from None
    except RecursionError:
        raise wrong(None, f"the body is nested more than {MOST_DEPTH} deep") from None
    # A number of too many digits is one, too.
    except ValueError as error:
        raise wrong(None, f"the body is not JSON: {str(error)[:200]}") from None
    check_value(value)
    return value


def no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def check_value(value: Any) -> None:
    """Raises RefusedRequestError for what is no text, no finite number, or nested too deep."""
    left = [(value, 0)]
    while left:
        item, depth = left.pop()
        if depth > MOST_DEPTH:
            raise wrong(None, f"the body is nested more than {MOST_DEPTH} deep")
        if isinstance(item, dict):
            left += [(inner, depth + 1) for pair in item.items() for inner in pair]
        elif isinstance(item, list):
            left += [(inner, depth + 1) for inner in item]
        elif isinstance(item, float) and not math.isfinite(item):
            raise wrong(None, "the body holds a number that is too large")
        elif isinstance(item, str) and not item.isascii() and any("\ud800" <= c < "\ue000" for c in item):
            raise wrong(None, "the body holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")
