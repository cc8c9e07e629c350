"""What a template is: it turns a conversation into pieces of text, the same for training, chat and evaluation.

A piece is either one special token, named, or plain text; text of a user is always plain text, whatever it
looks like. Supervised pieces are what the model learns to say: the assistant's words and the token that ends
them. The text before a supervised piece is, by construction, the prompt that chat sends.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from neuralchat.data.records import Turn

Tools = Sequence[Mapping[str, Any]]


class Piece(NamedTuple):
    """`special`: the text is one special token by name. `supervised`: the model learns to say it."""

    text: str
    special: bool = False
    supervised: bool = False


class Rendering(NamedTuple):
    """A conversation as one training example shows it: `turns`, of which those that are `trained` are supervised.

    `lost_reasoning`: how many of these answers had reasoning that the template leaves out.
    """

    turns: tuple[Turn, ...]
    pieces: list[Piece]
    lost_reasoning: int = 0


class Template(ABC):
    """How a conversation becomes pieces. `end_tokens` are the special tokens at which an answer stops."""

    name: str
    end_tokens: tuple[str, ...]
    # Plain text of a prompt and the answer that follows it are encoded as one text where no token joins them.
    joins_answers = False

    @abstractmethod
    def render(self, turns: Sequence[Turn], tools: Tools = ()) -> list[Piece]:
        """All turns. If the last one is not the assistant's, the pieces end where the answer begins."""

    def renderings(self, turns: Sequence[Turn], tools: Tools = ()) -> list[Rendering]:
        """The examples that a record becomes; several where an answer is written otherwise once more is said."""
        lost = sum(bool(turn.reasoning) for turn in turns if turn.role == "assistant" and turn.trained)
        return [Rendering(tuple(turns), self.render(turns, tools), lost)]

    @property
    def frame(self) -> tuple[list[Piece], list[Piece]]:
        """What the template has the model say before the words of an answer, such as an empty block of thoughts, and
        between them and the token that ends it.
        """
        return [], []

    @property
    def notices(self) -> list[str]:
        """What a user should know of this template."""
        return []

    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """Everything that decides the rendering, as JSON."""

    def fingerprint(self) -> str:
        """SHA-256 of the definition: equal fingerprints render every conversation alike."""
        return hashlib.sha256(json.dumps(self.definition(), sort_keys=True).encode()).hexdigest()
