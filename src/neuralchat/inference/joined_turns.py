"""Messages of one role in a row -> one message.

Programs send them (a second question before the answer came, two system messages); records of training never hold
them, and many templates refuse them. So that every model is asked in the way that it was trained in, they are one
message, with a blank line between their texts; whoever asked is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from neuralchat.data.records import Turn

BETWEEN = "\n\n"


@dataclass(frozen=True)
class Joined:
    """`starts`: where the turns were that begin `turns`, by their indices; what lies between was joined to them."""

    turns: list[Turn]
    starts: list[int]

    def added(self, count: int) -> list[int]:
        """The indices of those of `count` turns that were joined to the one before."""
        begun = set(self.starts)
        return [index for index in range(count) if index not in begun]


def joined_turns(turns: Sequence[Turn]) -> Joined:
    """
    >>> joined_turns([Turn("user", "Hello?"), Turn("user", "Who approves travel?")]).turns[0].content
    'Hello?\\n\\nWho approves travel?'
    """
    whole: list[Turn] = []
    starts: list[int] = []
    for index, turn in enumerate(turns):
        if whole and can_be_joined(whole[-1], turn):
            whole[-1] = joined_turn(whole[-1], turn)
        else:
            whole.append(turn)
            starts.append(index)
    return Joined(whole, starts)


def can_be_joined(first: Turn, second: Turn) -> bool:
    """Not what would then be said by somebody else, in another order, or of another context."""
    if first.role != second.role or first.role == "tool":
        return False
    return first.extra == second.extra and not (first.tool_calls or second.context or second.reasoning)


def joined_turn(first: Turn, second: Turn) -> Turn:
    texts = [text for text in (first.content, second.content) if text]
    return replace(first, content=BETWEEN.join(texts), tool_calls=second.tool_calls)
