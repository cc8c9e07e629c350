"""What is shown to a person: messages, tables, the line that shows how training goes, and numbers with their units.

On a terminal rich draws; it is imported only then (drawing.py, the one file that imports it). Anywhere else there are
plain lines.
"""

from neuralchat.console.messages import (
    NOTE,
    inform,
    is_first_rank,
    is_log_shown,
    log,
    log_shown,
    note,
    rank_mark,
    report,
    show_log,
    show_page,
    show_plan,
    warn_of_rank,
)
from neuralchat.console.output import put, shown_text
from neuralchat.console.units import clock, gib, mib

__all__ = [
    "NOTE",
    "clock",
    "gib",
    "inform",
    "is_first_rank",
    "is_log_shown",
    "log",
    "log_shown",
    "mib",
    "note",
    "put",
    "rank_mark",
    "report",
    "show_log",
    "show_page",
    "show_plan",
    "shown_text",
    "warn_of_rank",
]
