"""llama.cpp's server in this process, asked over a socket that only this user can reach, with a key besides.

Its own interface for programs gives words; token ids, which an engine lives on, are in its answers over HTTP alone.
"""

from __future__ import annotations

import json
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from neuralchat.errors import ModelError, NeuralChatError

INSTALL = "the engine llamacpp needs the package xllamacpp: pip install 'neuralchat[llamacpp]'"
# llama.cpp rounds contexts up to such.
CONTEXT_STEP = 256
WANTED = ["tokens", "stop_type", "timings/cache_n"]
# What the lines of a stream begin with that say something.
FRAME = b"data: "


class LlamaServerError(NeuralChatError):
    """llama.cpp could not compute a piece of an answer."""


class TokenLeftOutError(NeuralChatError):
    """llama.cpp's streams never tell the ids of tokens that end within a character."""


@dataclass(frozen=True)
class AnswerPiece:
    """The next ids of an answer, the end token among them, and how many of the prompt's were not computed again."""

    ids: list[int]
    cached: int


class SocketConnection(HTTPConnection):
    """HTTP over a socket of this machine; httpx takes several times as long per token from the cores that compute."""

    def __init__(self, path: str) -> None:
        super().__init__("llama")
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class LlamaServer:
    """`positions`: of each of `slots` texts that are computed at a time. Raises ModelError.

    llama.cpp ends the whole process over some files; whoever cares for that makes one in a process of its own.
    """

    def __init__(self, file: Path, *, positions: int, slots: int, threads: int) -> None:
        try:
            import xllamacpp
        except ImportError as error:
            raise ModelError(INSTALL) from error
        self.closing = ExitStack()
        directory = self.closing.enter_context(tempfile.TemporaryDirectory(prefix="neuralchat-"))
        self.socket, key = f"{directory}/llama.sock", secrets.token_hex(32)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        params: Any = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel = positions * slots, slots
        params.hostnames, params.api_keys = [self.socket], [key]
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        # As torch computes: llama.cpp's own defaults round to half precision on the way.
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        # As many as ask at a time, and one to close.
        params.n_threads_http = slots + 2
        params.verbosity, params.ui, params.endpoint_slots, params.warmup = -1, False, False, False
        # Sizes are ours to say, and nothing is fetched.
        params.fit_params, params.offline, params.ctx_shift, params.cache_ram_mib = False, True, False, 0
        try:
            self.server = xllamacpp.Server(params)
        except RuntimeError as error:
            self.closing.close()
            raise ModelError(f"llama.cpp cannot load {file.name}: {error}") from error

    def piece(self, ids: Sequence[int], count: int, slot: int, settings: Mapping[str, Any]) -> AnswerPiece:
        """The next ids after `ids`, at most `count`, fewer where a token ends the text. Raises LlamaServerError."""
        body = llama_body(ids, count, slot, settings) | {"response_fields": WANTED}
        try:
            with self.answered(body) as answer:
                told = json.loads(answer.read())
        except (OSError, HTTPException, ValueError) as error:
            raise LlamaServerError(f"llama.cpp did not answer: {type(error).__name__}") from error
        if answer.status != HTTPStatus.OK or not isinstance(told.get("tokens"), list):
            raise llama_refusal(told, answer.status)
        return AnswerPiece(told["tokens"], int(told.get("timings/cache_n") or 0))

    def stream(self, ids: Sequence[int], count: int, slot: int, settings: Mapping[str, Any]) -> Iterator[AnswerPiece]:
        """The same, each id as it comes; whoever stops reading stops llama.cpp.

        Raises TokenLeftOutError behind the last id that is known, and LlamaServerError.
        """
        body = llama_body(ids, count, slot, settings) | {"stream": True, "return_progress": True}
        said, cached = 0, 0
        try:
            with self.answered(body) as answer:
                if answer.status != HTTPStatus.OK:
                    raise llama_refusal(json.loads(answer.read()), answer.status)
                for told in stream_frames(answer):
                    if "error" in told:
                        raise llama_refusal(told, answer.status)
                    cached = told.get("prompt_progress", {}).get("cache", cached)
                    new = told["tokens_predicted"] - said
                    # Frames that tell of no token hold a number for one all the same.
                    if new and new != len(told["tokens"]):
                        raise TokenLeftOutError(f"{new} tokens came, {len(told['tokens'])} are known")
                    if new:
                        said += new
                        yield AnswerPiece(told["tokens"], cached)
                    if told["stop"]:
                        return
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise LlamaServerError(f"llama.cpp did not answer: {type(error).__name__}") from error
        raise LlamaServerError("llama.cpp did not answer to the end")

    @contextmanager
    def answered(self, body: Mapping[str, Any]) -> Iterator[HTTPResponse]:
        """A connection of its own: whoever leaves closes it, which llama.cpp sees."""
        with closing(SocketConnection(self.socket)) as connection:
            connection.request("POST", "/completion", json.dumps(body), self.headers)
            yield connection.getresponse()

    def close(self) -> None:
        self.closing.close()


def llama_body(ids: Sequence[int], count: int, slot: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **settings,
        "prompt": list(ids),
        "n_predict": count,
        "id_slot": slot,
        "cache_prompt": True,
        "return_tokens": True,
    }


def stream_frames(answer: HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in iter(answer.readline, b""):
        if line.startswith(FRAME):
            yield json.loads(line[len(FRAME) :])


def llama_refusal(told: Mapping[str, Any], status: int) -> LlamaServerError:
    reason = told.get("error", {}).get("message") if isinstance(told.get("error"), dict) else None
    return LlamaServerError(f"llama.cpp refuses: {str(reason or status)[:200]}")
