"""One logger with one handler; errors; pages for standard output.

The library only logs, to the logger "neuralchat"; nobody sees it unless a handler is there. The command line puts one
in (`show_log`): progress (INFO) as it is, notes and warnings with their name before them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from neuralchat.console.output import put
from neuralchat.console.tables import Page, Plan
from neuralchat.console.terminal import is_terminal
from neuralchat.errors import NeuralChatError
from neuralchat.secrets import masked

if TYPE_CHECKING:
    from neuralchat.console.drawing import Screen

# Between INFO and WARNING: something the user should know that is no fault.
NOTE = 25
ERASE_LINE = "\r\x1b[K"
log = logging.getLogger("neuralchat")
log.addHandler(logging.NullHandler())
logging.addLevelName(NOTE, "note")


def is_first_rank() -> bool:
    """Whether this is the process that speaks for all that train together."""
    return os.environ.get("RANK", "0") == "0"


def rank_mark() -> str:
    """Which process speaks, where there are several; empty for a single one."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    return f"[rank {os.environ['RANK']}] " if several else ""


def note(text: str) -> None:
    """Tell the user something that is no error, once for all ranks."""
    log.log(NOTE, "%s", masked(text))


def inform(text: str) -> None:
    """A line about what is going on, once for all ranks."""
    log.info("%s", masked(text))


def warn_of_rank(text: str) -> None:
    """Something that concerns this process alone, with its rank where there are several."""
    log.warning("%s", masked(text))


def show_plan(rows: Mapping[str, str]) -> None:
    """What is going to happen, once for all ranks: a table on a terminal, elsewhere the values, a line each.

    A value may begin with its name, as "forecast: 18 steps" does, where the plain line needs it.
    """
    page = Page([Plan(rows)])
    log.info("%s", page, extra={"page": page})


class StderrHandler(logging.Handler):
    """Writes to sys.stderr as it is at that moment, so that a test or a notebook may replace it.

    `screen`: while a live line is drawn, what stands above it has to go through it.
    """

    screen: Screen | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and not is_first_rank():
            return
        text = record.getMessage()
        if record.levelno == NOTE:
            text = f"note: {text}"
        elif record.levelno >= logging.WARNING:
            text = f"{rank_mark()}{record.levelname.lower()}: {text}"
        page = getattr(record, "page", Page([text]))
        if self.screen is not None:
            self.screen.show(page)
        else:
            write(page, sys.stderr)


HANDLER = StderrHandler()


def show_log() -> None:
    """Show what is logged on standard error; calling it again changes nothing."""
    log.addHandler(HANDLER)
    log.setLevel(logging.INFO)


def is_log_shown() -> bool:
    return HANDLER in log.handlers


@contextmanager
def log_shown(wanted: bool = True) -> Iterator[None]:
    """Within, the log is shown if that is `wanted`; afterwards as it was before."""
    before, level = is_log_shown(), log.level
    if wanted:
        show_log()
    try:
        yield
    finally:
        if wanted and not before:
            log.removeHandler(HANDLER)
            log.setLevel(level)


def report(error: NeuralChatError) -> None:
    """Print an error once: what all ranks meet alike by the first of them, what one meets by that one.

    Why a run was stopped is told in the same way, and not called an error.
    """
    if error.told or not (is_first_rank() or error.joined):
        return
    mark = "" if is_first_rank() else f"[rank {os.environ['RANK']}] "
    first, *rest = error.args[0].parts if error.args and isinstance(error.args[0], Page) else [str(error)]
    write(Page([f"{mark}{'error: ' if error.is_fault else ''}{first}", *rest]), sys.stderr)


def show_page(page: Page) -> None:
    """Print a page to standard output."""
    write(page, sys.stdout)


def write(page: Page, stream: TextIO) -> None:
    """Tables are drawn on a terminal; elsewhere they are lines of text."""
    if not is_terminal(stream):
        put(page, stream)
        return
    if not is_first_rank():
        # The first rank may have a live line on the same terminal, and the cursor stands at its end.
        stream.write(ERASE_LINE)
    if all(isinstance(part, str) for part in page.parts):
        put(page, stream)
        return
    from neuralchat.console.drawing import Screen

    Screen(stream).show(page)
