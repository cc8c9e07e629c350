"""What is shown to a person: notes, progress, errors, and numbers with their units."""

from __future__ import annotations

import os
import sys

from neuralchat.errors import NeuralChatError


def is_first_rank() -> bool:
    """Whether this is the process that speaks for all that train together."""
    return os.environ.get("RANK", "0") == "0"


def tell(text: str) -> None:
    """Tell the user something that is no error: one line on standard error, once for all ranks."""
    say_progress(f"note: {text}")


def say_progress(text: str) -> None:
    """A line on standard error about what is going on, once for all ranks."""
    if is_first_rank():
        print(text, file=sys.stderr, flush=True)


def report(error: NeuralChatError) -> None:
    """Print an error once: what all ranks meet alike by the first of them, what one meets by that one."""
    if error.told or not (is_first_rank() or error.joined):
        return
    mark = "" if is_first_rank() else f"[rank {os.environ['RANK']}] "
    print(f"{mark}error: {error}", file=sys.stderr, flush=True)


def warn_of_rank(text: str) -> None:
    """Something that concerns this process alone, with its rank where there are several."""
    mark = (
        f"[rank {os.environ['RANK']}] " if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ else ""
    )
    print(f"{mark}warning: {text}", file=sys.stderr, flush=True)


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
