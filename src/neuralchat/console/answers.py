"""An answer as it is being written: Markdown drawn on a terminal, its words as they come elsewhere."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import Protocol

from neuralchat.console.output import put
from neuralchat.console.terminal import is_terminal

FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})")


class AnswerDisplay(Protocol):
    def add(self, piece: str) -> None: ...

    def end(self, words: str = "") -> None:
        """The answer is over; `words` are written behind it, such as why it was cut."""


class PlainAnswer:
    """Each piece as it comes."""

    def add(self, piece: str) -> None:
        put(piece, end="")

    def end(self, words: str = "") -> None:
        put(words)


def answer_display() -> AnswerDisplay:
    """What suits standard output."""
    if not is_terminal(sys.stdout):
        return PlainAnswer()
    from neuralchat.console.answer_drawing import DrawnAnswer

    return DrawnAnswer(sys.stdout)


def whole_blocks(text: str) -> str:
    """The beginning of a Markdown text whose blocks are all ended: up to its last empty line outside of code.

    >>> whole_blocks("One.\\n\\nTwo")
    'One.\\n\\n'
    >>> whole_blocks("```\\na\\n\\nb")
    ''
    """
    fence, end, position = "", 0, 0
    for line in text.split("\n")[:-1]:
        position += len(line) + 1
        marks = found[1] if (found := FENCE.match(line)) else ""
        if not fence and marks:
            fence = marks
        elif fence:
            if marks.startswith(fence) and line.strip() == marks:
                fence, end = "", position
        elif not line.strip():
            end = position
    return text[:end]


def show_beside(columns: dict[str, str]) -> None:
    """Answers beside each other on a terminal, elsewhere below each other, each under its name."""
    if is_terminal(sys.stdout):
        from neuralchat.console.answer_drawing import draw_beside

        with suppress(BlockingIOError):
            draw_beside(sys.stdout, columns)
        return
    for name, text in columns.items():
        put(f"{name}: {text}")
