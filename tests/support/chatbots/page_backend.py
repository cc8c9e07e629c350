"""A server with the page and a scripted model behind it, and the Chromium that looks at it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from neuralchat.inference.page.feedback import FeedbackFile
from neuralchat.inference.page.routes import PageSettings, page_router

MODELS = ({"id": "runs/support", "parent": "smollm2"}, {"id": "smollm2"})
MARKDOWN = """\
# Badges

A lost badge is **blocked** within a minute, [says the desk](https://desk.example/badges).

1. Go to the front desk.
2. Bring your *passport*.

```python
def reset(badge: str) -> bool:
    # Blocked ones only.
    return desk.reset(badge, days=3)
```

| Day | Open until |
|:----|-----------:|
| Mon | 17:00 |

<script>window.harmed = true</script> <img src=x onerror="window.harmed = true"> [no](javascript:alert(1))
"""


def chromium_path() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("NEURALCHAT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@dataclass
class Backend:
    """What the scripted model was asked, and how it answers.

    A question of "slow" is answered for ever, word by word; of "markdown" with MARKDOWN; "too long", "busy" and "break"
    fail in three ways; any other is repeated. `left`: clients that went before their answer had ended.
    """

    feedback: Path | None = None
    key: str = ""
    # With more of them a conversation is too long; None: none is.
    most_messages: int | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0
    url: str = ""

    def app(self) -> FastAPI:
        app = FastAPI()
        feedback = FeedbackFile(self.feedback) if self.feedback else None
        guards = (Depends(self.check_key),)
        app.include_router(page_router(PageSettings(feedback, guards)))
        app.add_exception_handler(PermissionError, lambda *_: error_response(401, "the key is wrong"))
        app.get("/v1/models", dependencies=guards)(lambda: {"object": "list", "data": MODELS})
        app.post("/v1/chat/completions", dependencies=guards)(self.completions)
        return app

    def check_key(self, request: Request) -> None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise PermissionError

    async def completions(self, request: Request) -> Any:
        body = await request.json()
        self.requests.append(body)
        asked = body["messages"][-1]["content"]
        if self.most_messages is not None and len(body["messages"]) > self.most_messages:
            return error_response(400, "too many tokens", code="context_length_exceeded")
        if asked == "too long":
            return error_response(400, "the prompt has 5000 tokens, the model has positions for 2048")
        if asked == "busy":
            return error_response(429, "8 requests are waiting", {"Retry-After": "7"})
        if not body.get("stream"):
            text = "".join([piece async for piece in pieces_for(asked, body["model"])])
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return {"id": "chatcmpl-1", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}
        return StreamingResponse(self.stream(body, asked), media_type="text/event-stream")

    async def stream(self, body: dict[str, Any], asked: str) -> AsyncIterator[str]:
        finished = False
        try:
            yield event({"role": "assistant", "content": ""})
            count = 0
            async for piece in pieces_for(asked, body["model"]):
                count += 1
                yield event({"content": piece})
                if asked == "break" and count == 2:
                    yield f"data: {json.dumps({'error': {'message': 'the engine has crashed', 'status': 503}})}\n\n"
                    finished = True
                    return
            yield event({}, finish="length" if asked == "long" else "stop")
            usage = {"prompt_tokens": 9, "completion_tokens": count, "total_tokens": 9 + count}
            yield f"data: {json.dumps({'id': 'chatcmpl-1', 'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
            finished = True
        finally:
            self.left += not finished


async def pieces_for(asked: str, model: str) -> AsyncIterator[str]:
    while asked == "slow":
        yield "word "
        await asyncio.sleep(0.02)
    text = MARKDOWN if asked == "markdown" else f"{model} heard: {asked}"
    for start in range(0, len(text), 7 if len(text) < 1000 else 500):
        yield text[start : start + (7 if len(text) < 1000 else 500)]
        await asyncio.sleep(0.002)


def event(delta: dict[str, str], finish: str | None = None) -> str:
    chunk = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def error_response(
    status: int, message: str, headers: dict[str, str] | None = None, code: str | None = None
) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "x", "code": code}}, status, headers=headers)


@contextmanager
def served(backend: Backend) -> Iterator[Backend]:
    """The backend at its `url`, in a thread of its own."""
    config = uvicorn.Config(backend.app(), port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server has ended"
            time.sleep(0.01)
        backend.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
        yield backend
    finally:
        server.should_exit = True
        thread.join()
