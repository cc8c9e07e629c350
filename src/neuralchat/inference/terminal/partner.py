"""What the terminal talks to: a model that is loaded here, or one behind a server. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from neuralchat.data.records import Turn
from neuralchat.inference.sampling import Sampling


class SaidAnswer(Protocol):
    """The latest answer. Of `token_ids` only their number counts: a server does not tell which they are."""

    @property
    def text(self) -> str: ...

    @property
    def token_ids(self) -> Sequence[int]: ...

    @property
    def finished(self) -> bool: ...


class Partner(Protocol):
    """The part of a Chatbot that the terminal needs; what it says of itself holds."""

    name: str
    system: str | None
    history: list[Turn]

    @property
    def last(self) -> SaidAnswer | None: ...

    def stream(self, text: str, **options: Any) -> Iterator[str]: ...

    def reset(self) -> None: ...

    def untuned(self) -> AbstractContextManager[Partner]: ...

    def said_tokens(self) -> tuple[int, int | None]:
        """(tokens of the conversation so far, how many the model can follow); None where nobody knows."""

    def answers(self, conversations: Sequence[Sequence[Turn]], sampling: Sampling) -> Sequence[SaidAnswer]: ...

    def question_problem(self, turns: Sequence[Turn], sampling: Sampling) -> str | None:
        """Why a conversation cannot be answered, as far as that can be known before."""
