"""What a person types, question by question: with a history on a terminal, and pasted lines as one question."""

from __future__ import annotations

import io
import select
import sys
from collections.abc import Iterator
from types import ModuleType

from neuralchat.console.terminal import is_terminal

# Lines that come faster than this, in seconds, were not typed.
PASTE_S = 0.05


class Questions:
    """Iterates over questions until the end of the input, each without spaces around it; empty ones are left out.

    Ctrl-C at the prompt clears the line, and on an empty one leaves.
    """

    def __init__(self) -> None:
        self.on_terminal = sys.stdin is not None and is_terminal(sys.stdin, {})
        self.editor = line_editor() if self.on_terminal else None
        # Bytes that are no UTF-8 come through as they do in the words of a command, and are refused as those are.
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        while True:
            try:
                text = self.read("> " if self.on_terminal else "").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if text:
                yield text

    def read(self, prompt: str) -> str:
        lines = [input(prompt)]
        # readline reads a paste as one where the terminal marks it; elsewhere its lines come at once.
        while self.on_terminal and has_input():
            lines.append(input())
        text = "\n".join(lines)
        if self.editor is not None and len(lines) > 1:
            # Brought back as the one question that it was.
            for _ in lines:
                self.editor.remove_history_item(self.editor.get_current_history_length() - 1)
            self.editor.add_history(text)
        return text


def has_input() -> bool:
    """Whether a whole line waits to be read from the terminal."""
    return bool(select.select([sys.stdin], [], [], PASTE_S)[0])


def line_editor() -> ModuleType | None:
    """readline with history and, where it is GNU's, pastes as one line; None where Python was built without it."""
    try:
        import readline
    except ImportError:
        return None
    if "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")
    # A question may hold tabs.
    readline.parse_and_bind("tab: self-insert")
    return readline
