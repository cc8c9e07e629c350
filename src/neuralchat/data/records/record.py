"""What every row becomes: a conversation whose answers are learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
# A text that a right answer contains, or several of which one is enough.
Fact = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `context` is Alpaca's `input`: material that the instruction is about.

    `trained`: whether an answer is learned. `reasoning`: what an assistant thought before it answered. `tool_calls`:
    the functions that an assistant asks for, as chat templates take them. `extra`: further keys that a chat template
    may read, such as name and tool_call_id.
    """

    role: Role
    content: str
    context: str = ""
    trained: bool = True
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """A conversation that ends with the assistant's turn, and where it came from.

    `kind` is the format it came in, a name of RECORD_KINDS. Of the kind "text", the only turn is a text without a
    prompt, which is learned whole and takes no template. `facts` are texts that a right answer must contain; only
    `neuralchat eval` reads them. `tools`: the functions that the assistant may call, as JSON schemas.
    """

    turns: tuple[Turn, ...]
    source: str
    kind: str
    facts: tuple[Fact, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def question(self) -> Turn:
        """The user's last turn; a text without a prompt has none."""
        return next(turn for turn in reversed(self.turns) if turn.role == "user")
