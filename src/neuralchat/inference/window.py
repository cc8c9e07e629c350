"""A conversation and the positions of a model -> the prompt that fits, and how long its answer may become."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from neuralchat.console import note
from neuralchat.data.records import Turn
from neuralchat.errors import ArgumentsError
from neuralchat.models.adapters.build import base_model_of
from neuralchat.models.adapters.virtual_tokens import virtual_tokens_of
from neuralchat.models.families.architecture import is_encoder_decoder, position_limit

Encode = Callable[[Sequence[Turn]], list[int]]
# Somewhat beyond what a model was made for, an answer may still be one; far beyond, it only costs memory and hours.
MOST_TIMES_TRAINED = 8


@dataclass(frozen=True)
class Prompt:
    """`dropped`: turns at the beginning, besides the system's, that are left out. `joined`: turns that were made one
    with those before, which have the same role.
    """

    ids: list[int]
    max_new_tokens: int
    dropped: int = 0
    joined: int = 0


@dataclass(frozen=True)
class Window:
    """Tokens that prompt and answer may have together.

    `limit`: with more the model fails, None where nothing fails. `trained`: what the model has learned to follow, and
    beyond which answers become nonsense. `apart`: source and answer have positions of their own (encoder-decoder).
    """

    limit: int | None
    trained: int | None
    apart: bool = False

    def prompt(self, turns: Sequence[Turn], encode: Encode, max_new_tokens: int) -> Prompt:
        """The prompt of as many of the latest turns as leave room for an answer.

        The system's turn always stays. Raises ArgumentsError where the last question alone is too long.
        """
        ids, dropped = encode(turns), 0
        if not self.has_room(ids, max_new_tokens):
            ids, dropped = self.shortened(turns, encode, max_new_tokens)
        left = self.left(ids)
        if left is not None and left < 1:
            raise ArgumentsError(self.too_long(ids, dropped))
        if self.trained is not None and len(ids) > MOST_TIMES_TRAINED * self.trained:
            raise ArgumentsError(
                f"the question is too long: with its template it has {len(ids)} tokens, and the model was made for "
                f"{self.trained}; ask a shorter one"
            )
        return Prompt(ids, max_new_tokens if left is None else min(max_new_tokens, left), dropped)

    def shortened(self, turns: Sequence[Turn], encode: Encode, max_new_tokens: int) -> tuple[list[int], int]:
        """(ids, turns left out) of as many of the latest turns as leave room, and of the last one in any case.

        Since fewer turns have fewer tokens, how many is found by halves: a long history is not encoded turn by turn.
        """
        system, spoken = turns_apart(turns)

        def encode_from(start: int) -> list[int]:
            return encode([*system, *spoken[start:]])

        # A question goes with its answer.
        starts = [n for n, turn in enumerate(spoken) if n and turn.role == "user"] or [0]
        if starts[-1] < len(spoken) - 1:
            starts.append(len(spoken) - 1)
        last = len(starts) - 1
        found = bisect_left(starts, True, hi=last, key=lambda n: self.has_room(encode_from(n), max_new_tokens))
        return encode_from(starts[found]), starts[found]

    @property
    def size(self) -> int | None:
        """The most tokens that the model can follow; None where nobody knows."""
        return self.trained if self.limit is None else self.limit

    def has_room(self, ids: Sequence[int], max_new_tokens: int) -> bool:
        """Whether a prompt leaves as much room as an answer may want, though never more than half."""
        size = self.size
        if size is None:
            return True
        return len(ids) + (0 if self.apart else min(max_new_tokens, size // 2)) <= size

    def left(self, ids: Sequence[int]) -> int | None:
        """Positions for the answer; None where they are not bounded."""
        if self.limit is None:
            return None
        if self.apart:
            # One for the token that answers begin after.
            return self.limit - 1 if len(ids) <= self.limit else 0
        return self.limit - len(ids)

    def too_long(self, ids: Sequence[int], dropped: int) -> str:
        alone = ", without what was said before," if dropped else ""
        return (
            f"the question is too long: with its template{alone} it has {len(ids)} tokens, and the model has positions "
            f"for {self.limit} tokens, the answer included; ask a shorter one"
        )

    def tell(self, prompt: Prompt) -> None:
        """What the person should know of how the conversation was fitted."""
        if prompt.joined:
            note(f"{prompt.joined} turn(s) follow one of the same role and are made one with it, as training has turns")
        if prompt.dropped:
            note(
                f"the conversation has become longer than the {self.size} tokens that the model can follow; its first "
                f"{prompt.dropped} turn(s) are left out of this answer (/new begins a new one)"
            )
        if self.trained is not None and len(prompt.ids) > self.trained:
            note(
                f"the question has {len(prompt.ids)} tokens with its template, the model was made for {self.trained}; "
                "its answer may be nonsense"
            )


def turns_apart(turns: Sequence[Turn]) -> tuple[list[Turn], list[Turn]]:
    """(the system's turn at the beginning, the others)"""
    count = 1 if turns and turns[0].role == "system" else 0
    return list(turns[:count]), list(turns[count:])


def window_of(model: Any) -> Window:
    return window_for(base_model_of(model).config, virtual_tokens_of(model).count)


def window_for(config: Any, virtual: int) -> Window:
    """`config`: transformers' configuration. `virtual`: tokens of the adapter, which stand in positions too."""
    limit = position_limit(config)
    trained = getattr(config, "max_position_embeddings", None)
    if not isinstance(trained, int) or isinstance(trained, bool) or trained < 1:
        trained = None
    return Window(
        None if limit is None else limit - virtual,
        None if trained is None else trained - virtual,
        apart=is_encoder_decoder(config),
    )
