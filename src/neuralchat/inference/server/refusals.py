"""Everything that can go wrong with a request -> a status and a body in the form of OpenAI's interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from neuralchat.errors import NeuralChatError
from neuralchat.inference.engine.interface import EngineBusyError, EngineDownError, UnknownModelError

SECONDS_AFTER_DOWN = 2
# What a status is called where nothing more is known.
ERROR_KINDS: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class RefusedRequestError(Exception):
    """`param`: the field that is wrong. `retry_after`: seconds after which it is worth asking again."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        kind = ERROR_KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers=headers)


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


class ContextLengthError(RefusedRequestError):
    """A prompt and its answer that the model, or the engine's memory, has no room for."""

    def __init__(self, prompt: int, answer: int, room: int, *, param: str) -> None:
        # What to do about it.
        asked = f"ask for at most {room - prompt} tokens" if room > prompt else "leave out earlier messages"
        super().__init__(
            400,
            f"the prompt has {prompt} tokens and its answer may have {answer}, which is {prompt + answer} of at most "
            f"{room} tokens that this model follows; shorten the prompt, or {asked}",
            param=param,
            code="context_length_exceeded",
        )


def wrong(param: str | None, message: str, *, code: str | None = None) -> RefusedRequestError:
    """A request that cannot be answered however often it is asked."""
    return RefusedRequestError(400, message, param=param, code=code)


def refused_by(error: NeuralChatError, *, param: str | None = None, retry_after: int = 1) -> RefusedRequestError:
    """What an error of the engine or of the template means to who asked."""
    if isinstance(error, EngineBusyError):
        return RefusedRequestError(429, str(error), code="rate_limit_exceeded", retry_after=retry_after)
    if isinstance(error, EngineDownError):
        return RefusedRequestError(503, str(error), code="engine_down", retry_after=SECONDS_AFTER_DOWN)
    if isinstance(error, UnknownModelError):
        return RefusedRequestError(404, str(error), param="model", code="model_not_found")
    return wrong(param, str(error))
