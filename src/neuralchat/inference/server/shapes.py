"""What is said -> the objects of OpenAI's interface, whole or in chunks, for conversations and for texts."""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from neuralchat.inference.engine.interface import Token
from neuralchat.inference.server.answers import OpenAnswers, SaidPiece
from neuralchat.inference.server.refusals import RefusedRequestError
from neuralchat.inference.server.token_bytes import TokenBytes

# JSON has no infinity.
LEAST_LOGPROB = -9999.0


@dataclass
class Shape(ABC):
    """How the answers to one request are laid out, whole or in the chunks of a stream."""

    answers: OpenAnswers
    token_bytes: TokenBytes
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(init=False)

    # What ids begin with, and what a stream ends with.
    prefix: ClassVar[str]
    end: ClassVar[bytes] = b""

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}{secrets.token_hex(12)}"

    @abstractmethod
    def whole(self, said: Sequence[SaidPiece]) -> dict[str, Any]:
        """Of all that was said, the pieces of several answers mixed."""

    def first_chunks(self) -> list[dict[str, Any]]:
        return []

    @abstractmethod
    def chunks(self, said: SaidPiece) -> list[dict[str, Any]]:
        """A piece of an answer that is streamed."""

    def last_chunks(self) -> list[dict[str, Any]]:
        return []

    def failed_chunks(self, error: RefusedRequestError) -> list[dict[str, Any]]:
        """What a stream ends with that fails after its first words."""
        return [error.body()]

    def event_bytes(self, chunk: dict[str, Any]) -> bytes:
        """A chunk as an event of a stream."""
        return b"data: " + json_bytes(chunk) + b"\n\n"


@dataclass
class ChoicesShape(Shape):
    """Several answers may be had, each a choice; all chunks share one head."""

    whole_kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    end: ClassVar[bytes] = b"data: [DONE]\n\n"

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.answers.wanted.model}

    def usage(self) -> dict[str, Any]:
        prompt, completion = self.answers.prompt_tokens, self.answers.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.answers.cached_tokens},
        }

    def whole(self, said: Sequence[SaidPiece]) -> dict[str, Any]:
        choices = []
        for index in range(len(self.answers.speakers)):
            own = [piece for piece in said if piece.index == index]
            tokens = [token for piece in own for token in piece.tokens]
            text = "".join(piece.text for piece in own)
            choices.append(self.choice(SaidPiece(index, text, tuple(tokens), own[-1].finish, own[-1].calls)))
        return {**self.head(self.whole_kind), "choices": choices, "usage": self.usage()}

    def chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        # Who asks for the usage gets the field in every chunk.
        usage = {"usage": None} if self.answers.wanted.include_usage else {}
        return {**self.head(self.chunk_kind), "choices": list(choices), **usage}

    def last_chunks(self) -> list[dict[str, Any]]:
        return [{**self.chunk([]), "usage": self.usage()}] if self.answers.wanted.include_usage else []

    @abstractmethod
    def choice(self, said: SaidPiece) -> dict[str, Any]:
        """A whole answer."""

    @property
    def wants_logprobs(self) -> bool:
        return self.answers.wanted.top_logprobs is not None


@dataclass
class ChatShape(ChoicesShape):
    prefix = "chatcmpl-"
    whole_kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def choice(self, said: SaidPiece) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
        if said.calls:
            message |= {"content": said.text if said.text.strip() else None, "tool_calls": calls_of_tools(said)}
        logprobs = self.logprobs(said)
        return {"index": said.index, "message": message, "logprobs": logprobs, "finish_reason": said.finish}

    def first_chunks(self) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self.delta_chunk(index, delta) for index in range(len(self.answers.speakers))]

    def chunks(self, said: SaidPiece) -> list[dict[str, Any]]:
        found = []
        if said.text or said.tokens:
            found.append(self.delta_chunk(said.index, {"content": said.text}, self.logprobs(said)))
        if said.calls:
            calls = [{"index": number, **call} for number, call in enumerate(calls_of_tools(said))]
            found.append(self.delta_chunk(said.index, {"tool_calls": calls}))
        if said.finish is not None:
            found.append(self.delta_chunk(said.index, {}, finish=said.finish))
        return found

    def delta_chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None
    ) -> dict[str, Any]:
        return self.chunk([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])

    def logprobs(self, said: SaidPiece) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        content = []
        for token, share in said.tokens:
            top = [self.named(self.token_bytes.name(id_), logprob) for id_, logprob in token.top]
            content.append({**self.named(share, token.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    @staticmethod
    def named(share: bytes, logprob: float | None) -> dict[str, Any]:
        return {"token": share.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(share)}


@dataclass
class TextShape(ChoicesShape):
    prefix = "cmpl-"
    whole_kind = "text_completion"
    chunk_kind = "text_completion"
    # Characters that each answer has so far.
    offsets: dict[int, int] = field(default_factory=dict)

    def choice(self, said: SaidPiece) -> dict[str, Any]:
        return {
            "index": said.index, "text": said.text, "logprobs": self.logprobs(said), "finish_reason": said.finish,
        }  # fmt: skip

    def chunks(self, said: SaidPiece) -> list[dict[str, Any]]:
        if not (said.text or said.tokens or said.finish):
            return []
        return [self.chunk([self.choice(said)])]

    def logprobs(self, said: SaidPiece) -> dict[str, Any] | None:
        if not self.wants_logprobs:
            return None
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        offset = self.offsets.get(said.index, 0)
        for token, share in said.tokens:
            text = share.decode("utf-8", "replace")
            found["tokens"].append(text)
            found["token_logprobs"].append(finite(token.logprob))
            found["top_logprobs"].append(self.likeliest(token))
            found["text_offset"].append(offset)
            offset += len(text)
        self.offsets[said.index] = offset
        return found

    def likeliest(self, token: Token) -> dict[str, float]:
        # Several tokens may be the same letters; the likeliest of them comes first.
        texts: dict[str, float] = {}
        for id_, logprob in token.top:
            texts.setdefault(self.token_bytes.name(id_).decode("utf-8", "replace"), finite(logprob))
        return texts


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def call_id() -> str:
    """Nine letters and digits, since some templates take no others."""
    return f"call{secrets.token_hex(3)[:5]}"


def calls_of_tools(said: SaidPiece) -> list[dict[str, Any]]:
    return [
        {
            "id": call_id(),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in said.calls
    ]


def finite(logprob: float | None) -> float:
    """
    >>> finite(-0.5), finite(float("-inf"))
    (-0.5, -9999.0)
    """
    return LEAST_LOGPROB if logprob is None else max(logprob, LEAST_LOGPROB)
