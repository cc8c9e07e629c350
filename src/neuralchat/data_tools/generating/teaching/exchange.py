"""What a teacher is asked, and what it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

# What a chat template puts around a message, and what a server may add before it.
TEMPLATE_TOKENS = 256


@dataclass(frozen=True)
class TeacherRequest:
    """One prompt. `purpose`: a name of PROMPTS; `answer_tokens`: as many as an answer may have."""

    purpose: str
    prompt: str
    answer_tokens: int

    @property
    def most_prompt_tokens(self) -> int:
        """A bound from above: a token stands for at least one byte."""
        return len(self.prompt.encode("utf-8", "replace")) + TEMPLATE_TOKENS


@dataclass(frozen=True)
class TeacherReply:
    """`finished`: it was not cut at the length asked for. `problem`: why there is no text."""

    text: str
    finished: bool = True
    prompt_tokens: int = 0
    answer_tokens: int = 0
    problem: str = ""


def request_key(number: int, request: TeacherRequest, settings: Mapping[str, Any]) -> str:
    """Tells a request apart from all others that differ in what is asked, how, or as which of a run."""
    asked = [number, request.purpose, request.prompt, request.answer_tokens, dict(settings)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


class WaitedReply(Protocol):
    """A reply that may still be on its way."""

    def result(self) -> TeacherReply:
        """Waits. Raises NeuralChatError where there will be none."""

    def done(self) -> bool: ...


class AskedTeacher(Protocol):
    """`name`: the model that answers."""

    name: str

    def submit(self, number: int, key: str, request: TeacherRequest, processed: int) -> WaitedReply:
        """Request `number`, built when so many replies had been processed.

        Raises BudgetReachedError where asking could cost more than is left.
        """

    def close(self) -> None: ...
