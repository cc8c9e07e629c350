"""A chatbot without a model: it answers with the question in capitals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from neuralchat.data.records import Turn
from neuralchat.errors import ArgumentsError
from neuralchat.inference.sampling import Sampling


class ScriptedBot:
    """Word by word; "stop" is interrupted after one, "mute" is silent, "long" and "wide" are cut.

    A question that begins with "too long" is refused. `groups`: what was asked together.
    """

    def __init__(self, name: str = "scripted") -> None:
        self.name = name
        self.system: str | None = None
        self.history: list[Turn] = []
        self.last: Any = SimpleNamespace(finished=True, token_ids=())
        self.options: list[dict[str, Any]] = []
        self.groups: list[list[str]] = []

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        self.options.append(options)
        if text.startswith("too long"):
            raise ArgumentsError("the question is too long")
        for word in [] if text == "mute" else self.reply_to(text).split():
            yield word
            if text.startswith("stop"):
                # Ctrl-C reaches the loop of the reader, so what was handed out is remembered by then.
                self.history = [*self.history, Turn("user", text), Turn("assistant", word)]
                raise KeyboardInterrupt
        self.history = [*self.history, Turn("user", text), Turn("assistant", self.reply_to(text))]
        count = 9 if text == "long" else 4
        self.last = SimpleNamespace(finished=text not in ("long", "wide"), token_ids=range(count))

    def reply_to(self, text: str) -> str:
        return text.upper()

    def reset(self) -> None:
        self.history = []

    @contextmanager
    def untuned(self) -> Iterator[ScriptedBase]:
        yield ScriptedBase("base")

    def said_tokens(self) -> tuple[int, int | None]:
        return 7 * len(self.history), 1024

    def question_problem(self, turns: Sequence[Turn], sampling: Sampling) -> str | None:
        return "the question is too long" if turns[-1].content.startswith("too long") else None

    def answers(self, conversations: Sequence[Sequence[Turn]], sampling: Sampling) -> list[Any]:
        self.groups.append([turns[-1].content for turns in conversations])
        texts = [f"{sampling.seed} {' '.join(turn.content for turn in turns).upper()}" for turns in conversations]
        return [SimpleNamespace(text=text, finished=True, token_ids=(1,)) for text in texts]


class ScriptedBase(ScriptedBot):
    """Answers in small letters, and says what it knows of the conversation."""

    def reply_to(self, text: str) -> str:
        return f"{text.lower()} after {len(self.history)} turns, {self.system}"
