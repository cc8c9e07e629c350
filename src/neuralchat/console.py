"""What is shown to a person: one logger with one handler, errors, and numbers with their units.

The library only logs, to the logger "neuralchat"; nobody sees it unless a handler is there. The command line puts one
in (`show_log`): progress (INFO) as it is, notes and warnings with their name before them.
"""

from __future__ import annotations

import logging
import os
import sys

from neuralchat.errors import NeuralChatError

# Between INFO and WARNING: something the user should know that is no fault.
NOTE = 25
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
    log.log(NOTE, text)


def inform(text: str) -> None:
    """A line about what is going on, once for all ranks."""
    log.info(text)


def warn_of_rank(text: str) -> None:
    """Something that concerns this process alone, with its rank where there are several."""
    log.warning("%s", text)


class StderrHandler(logging.Handler):
    """Writes to sys.stderr as it is at that moment, so that a test or a notebook may replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and not is_first_rank():
            return
        text = record.getMessage()
        if record.levelno == NOTE:
            text = f"note: {text}"
        elif record.levelno >= logging.WARNING:
            text = f"{rank_mark()}{record.levelname.lower()}: {text}"
        print(text, file=sys.stderr, flush=True)


def show_log() -> None:
    """Show what is logged on standard error; calling it again changes nothing."""
    if not any(isinstance(handler, StderrHandler) for handler in log.handlers):
        log.addHandler(StderrHandler())
    log.setLevel(logging.INFO)


def report(error: NeuralChatError) -> None:
    """Print an error once: what all ranks meet alike by the first of them, what one meets by that one."""
    if error.told or not (is_first_rank() or error.joined):
        return
    mark = "" if is_first_rank() else f"[rank {os.environ['RANK']}] "
    print(f"{mark}error: {error}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """
    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
