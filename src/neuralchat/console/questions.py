"""What a person types, question by question: edited on a terminal, with a history; elsewhere lines as they are."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from neuralchat.console.terminal import is_terminal

if TYPE_CHECKING:
    from neuralchat.console.editor import Editor


class Questions:
    """Iterates over questions until the end of the input, each without spaces around it; empty ones are left out.

    Ctrl-C at the prompt clears the line, and on an empty one leaves. `commands`: see Editor.
    """

    def __init__(self, commands: Mapping[str, str] | None = None) -> None:
        self.on_terminal = sys.stdin is not None and is_terminal(sys.stdin, {})
        self.editor: Editor | None = None
        # Bytes that are no UTF-8 come through as they do in the words of a command, and are refused as those are.
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")
        if self.on_terminal and is_terminal(sys.stdout):
            from neuralchat.console.editor import Editor

            self.editor = Editor(commands or {})

    def __iter__(self) -> Iterator[str]:
        while True:
            try:
                text = self.read("> " if self.on_terminal else "").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if text:
                yield text

    def read(self, prompt: str) -> str:
        if self.editor is not None:
            return self.editor.read(prompt)
        if self.on_terminal and sys.stdout is not None:
            return input(prompt)
        # `input` asks for both streams, of which the one or the other may have been closed before the command.
        if sys.stdin is None or not (line := sys.stdin.readline()):
            raise EOFError
        return line
