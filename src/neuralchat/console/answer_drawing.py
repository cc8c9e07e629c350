"""Answers on a terminal, drawn by rich: blocks of Markdown as they end, the one being written below them as text."""

from __future__ import annotations

import time
from typing import Any, TextIO

from markdown_it import MarkdownIt
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.panel import Panel
from rich.segment import Segment
from rich.text import Text

from neuralchat.console.answers import whole_blocks
from neuralchat.console.drawing import DRAW_S, Screen, as_it_is, messages_above
from neuralchat.console.output import shown_text

# Lines of the terminal that what is being written leaves free.
LINES_LEFT = 3


class DrawnMarkdown(Markdown):
    """Nothing of the text is lost: what looks like HTML is shown as it is, a line end is a line end, links and images
    show their addresses.
    """

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", justify="default", hyperlinks=False)
        parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
        parser.disable(["html_block", "html_inline", "image"])
        self.parsed = parser.parse(shown_text(text))
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"


class BeingWritten:
    """The last lines of a text, as many as fit; before its first word a sign that it is waited for."""

    def __init__(self) -> None:
        self.text = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = as_it_is(self.text) if self.text.strip() else Text("…", style="dim")
        # No character may reach the last column, where some terminals begin a new line.
        lines = console.render_lines(text, options.update(width=options.max_width - 1), pad=False)
        for number, line in enumerate(lines[-max(1, console.height - LINES_LEFT) :]):
            if number:
                yield Segment.line()
            yield from line


class DrawnAnswer:
    """A live part at the end of the terminal; what is whole goes above it and stays."""

    def __init__(self, stream: TextIO, **options: Any) -> None:
        self.screen = Screen(stream, **options)
        self.tail = BeingWritten()
        self.live = Live(
            self.tail,
            console=self.screen,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.above = messages_above(self.screen)
        self.text = ""
        self.drawn_at = 0.0
        self.has_blocks = False
        self.live.start(refresh=True)
        self.above.__enter__()

    def add(self, piece: str) -> None:
        self.text += piece
        blocks = whole_blocks(self.text)
        # Before the blocks are drawn: what is live is drawn again below them.
        self.tail.text = self.text = self.text[len(blocks) :]
        self.draw(blocks)
        now = time.monotonic()
        if now - self.drawn_at >= DRAW_S:
            self.drawn_at = now
            self.live.refresh()

    def draw(self, blocks: str) -> None:
        if not blocks.strip():
            return
        if self.has_blocks:
            self.screen.print()
        self.has_blocks = True
        self.screen.print(DrawnMarkdown(blocks))

    def end(self, words: str = "") -> None:
        self.tail.text = ""
        self.above.__exit__(None, None, None)
        self.live.stop()
        self.draw(self.text)
        if words.strip():
            self.screen.print(as_it_is(words.strip(), "dim"))


def draw_beside(stream: TextIO, columns: dict[str, str]) -> None:
    screen = Screen(stream)
    width = max(20, screen.width // len(columns) - 1)
    panels: list[RenderableType] = [
        Panel(DrawnMarkdown(text), title=as_it_is(name), title_align="left", width=width)
        for name, text in columns.items()
    ]
    screen.print(Columns(panels, padding=(0, 1)))
