"""rich on a terminal. The one file that imports it, and imported only where something is drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from neuralchat.console.messages import HANDLER
from neuralchat.console.output import Sturdy, shown_text
from neuralchat.console.standing import Standing
from neuralchat.console.tables import Answers, Figures, MarkedText, Page, Part, Plan, Pointers, Table
from neuralchat.console.terminal import is_terminal, shows_unicode

LONGEST_BAR = 40
SHORTEST_BAR = 12
# Seconds between two drawings of the live line.
DRAW_S = 0.1
# What a narrow terminal gives up first. The step stays.
DROPPED_FIRST = ("epoch", "memory", "speed", "loss", "left", "activity")
GAP = "  "
STYLES = {"step": "bold", "activity": "yellow", "left": "bold"}
# What a piece of MarkedText is -> how it is drawn.
PIECE_STYLES = {
    "learned": "green",
    "compared": "cyan",
    "special": "bold yellow",
    "learned special": "bold green underline",
    "compared special": "bold cyan underline",
    "title": "bold blue",
}


class Screen(Console):
    """A terminal that shows text as it is: no markup, no colours guessed from words, control characters spelled out.

    The cursor is never hidden, so that a process ended by force leaves a sane terminal too.
    """

    def __init__(self, stream: TextIO, **options: Any) -> None:
        super().__init__(
            file=cast(TextIO, stream if isinstance(stream, Sturdy) else Sturdy(stream)),
            force_terminal=True,
            force_interactive=True,
            force_jupyter=False,
            markup=False,
            emoji=False,
            highlight=False,
            **options,
        )

    @property
    def encoding(self) -> str:
        """What frames and bars are drawn for."""
        found = super().encoding
        return found if shows_unicode(found) else "ascii"

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002
        return False

    def show(self, page: Page) -> None:
        for part in page.parts:
            # What is no table may be copied from the terminal, so that its lines are not broken.
            self.print(drawn(part), soft_wrap=isinstance(part, str | Pointers | MarkedText))


def as_it_is(text: str, style: str = "") -> Text:
    return Text(shown_text(text), style=style)


def drawn(part: Part) -> RenderableType:
    match part:
        case str():
            return as_it_is(part)
        case Table():
            return drawn_table(part)
        case Plan():
            return two_columns(part.columns())
        case Answers():
            return drawn_answers(part)
        case Pointers():
            width = max(cell_len(name) for name, _ in part.rows)
            return Text("\n").join(
                Text.assemble("  ", (name.ljust(width), "cyan"), "  ", shown_text(value)) for name, value in part.rows
            )
        case Figures():
            return two_columns(part.rows)
        case MarkedText():
            return drawn_pieces(part)


def drawn_pieces(text: MarkedText) -> Text:
    return Text().join(as_it_is(piece, PIECE_STYLES.get(mark, "")) for piece, mark in text.pieces)


def drawn_table(table: Table) -> RichTable:
    result = RichTable(box=box.ROUNDED, header_style="bold")
    for name in table.header:
        result.add_column(as_it_is(name), overflow="fold")
    for number, row in enumerate(table.rows):
        result.add_row(*map(as_it_is, row), style="bold red" if number in table.marked else "")
    return result


def two_columns(rows: Any) -> RichTable:
    result = RichTable(box=box.ROUNDED, show_header=False)
    result.add_column(style="cyan", no_wrap=True)
    result.add_column(overflow="fold")
    for name, value in rows:
        result.add_row(as_it_is(name), as_it_is(value))
    return result


def drawn_answers(answers: Answers) -> RichTable:
    """Each question above its two answers."""
    result = RichTable(box=box.ROUNDED, show_header=False)
    result.add_column(no_wrap=True)
    result.add_column(overflow="fold")
    for question, before, after in answers.samples:
        result.add_row(as_it_is("Q", "bold cyan"), as_it_is(question, "bold"))
        result.add_row(as_it_is("before", "dim"), as_it_is(before, "dim"))
        result.add_row(as_it_is("after", "green"), as_it_is(after))
        result.add_section()
    return result


@contextmanager
def messages_above(screen: Screen) -> Iterator[None]:
    """What is logged meanwhile appears above what is drawn on `screen`."""
    HANDLER.screen = screen
    try:
        yield
    finally:
        HANDLER.screen = None


class WaitingBar(Progress):
    """One task; `done_bytes` is asked before each drawing, which a thread of rich's does."""

    done_bytes: Callable[[], int] | None = None

    def get_renderables(self) -> Iterator[RenderableType]:
        if self.done_bytes is not None:
            for task in self.tasks:
                self.update(task.id, completed=self.done_bytes())
        yield from super().get_renderables()


@contextmanager
def waiting_bar(
    screen: Screen, word: str, total_bytes: int | None, done_bytes: Callable[[], int] | None
) -> Iterator[None]:
    """The bar goes when the work is done; the messages around it tell what was done."""
    size: list[ProgressColumn] = [DownloadColumn()] if total_bytes else []
    bar = WaitingBar(
        TextColumn("{task.description}", markup=False),
        BarColumn(LONGEST_BAR, complete_style="cyan", finished_style="green", pulse_style="cyan"),
        *size,
        TimeElapsedColumn(),
        console=screen,
        transient=True,
        redirect_stdout=is_terminal(sys.stdout),
    )
    bar.add_task(shown_text(word), total=total_bytes)
    bar.done_bytes = done_bytes
    with messages_above(screen), bar:
        yield


class LiveLine:
    """A bar and what is known of the run, on one line that is drawn again in place."""

    def __init__(self, stream: TextIO, clock: Callable[[], float], **options: Any) -> None:
        self.screen = Screen(stream, **options)
        self.clock = clock
        self.standing = Standing(0)
        self.drawn_at = clock()
        # The widest text so far of the same fields, so that the bar does not change its width with every digit.
        self.text_width = 0
        self.shown: list[str] = []
        # No thread: it would have to be stopped before each fork, and could outlive the run.
        self.live = Live(
            self, console=self.screen, auto_refresh=False, redirect_stdout=is_terminal(sys.stdout), redirect_stderr=True
        )

    def start(self, standing: Standing) -> None:
        self.standing = standing
        self.live.start(refresh=True)
        HANDLER.screen = self.screen

    def moved(self, standing: Standing, *, at_once: bool = False) -> None:  # noqa: ARG002
        now = self.clock()
        if at_once or now - self.drawn_at >= DRAW_S:
            self.drawn_at = now
            self.live.refresh()

    step_done = logged = moved

    def stop(self, standing: Standing) -> None:  # noqa: ARG002
        HANDLER.screen = None
        # Where no step was made there is no result to leave.
        self.live.transient = self.standing.step is None
        self.live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Room for the ^C that a terminal writes at the cursor; no character may reach the last column, where some
        # terminals begin a new line.
        width = options.max_width - 3
        fields = fitting(self.standing.fields(self.clock()), width)
        text = Text(GAP).join(as_it_is(field, STYLES.get(name, "")) for name, field in fields.items())
        bar_width = self.bar_width(list(fields), text.cell_len, width)
        if bar_width and fields:
            yield from bar(console, options.update(width=bar_width), self.standing.share())
            text = Text(GAP) + text
        text.truncate(width)
        text.end = ""
        yield text

    def bar_width(self, names: list[str], text_width: int, width: int) -> int:
        """Columns left for the bar; 0: too few for one."""
        is_same = names == self.shown and self.text_width + len(GAP) + SHORTEST_BAR <= width
        self.text_width = max(self.text_width, text_width) if is_same else text_width
        self.shown = names
        left = min(LONGEST_BAR, width - self.text_width - len(GAP))
        return left if left >= SHORTEST_BAR // 2 else 0


def fitting(fields: dict[str, str], width: int) -> dict[str, str]:
    """The fields that leave room for a bar in `width` columns."""
    shown = dict(fields)
    for name in DROPPED_FIRST:
        if sum(cell_len(text) + len(GAP) for text in shown.values()) + SHORTEST_BAR <= width:
            break
        shown.pop(name, None)
    return shown


def bar(console: Console, options: ConsoleOptions, share: float) -> Iterator[Segment]:
    """Exactly as wide as `options` say; without colours rich leaves out what is to come, which is dotted then."""
    drawing = ProgressBar(total=1, completed=share, style="bright_black", complete_style="cyan", finished_style="green")
    segments = list(console.render(drawing, options))
    yield from segments
    yield Segment("." * (options.max_width - sum(segment.cell_length for segment in segments)))
