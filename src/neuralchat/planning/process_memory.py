"""How much memory this process has and has had at most, and what a piece of work takes of it at its peak.

Linux keeps the highest number of pages that a process has had (VmHWM), and starts anew where it is asked to.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from neuralchat.models.kernels.allocator import give_back_freed_pages

WorkResult = TypeVar("WorkResult")
# 5 is "peak resident set size" in proc(5).
CLEAR_REFS, RESET_PEAK = "/proc/self/clear_refs", b"5"
PEAK_LINE = re.compile(r"^VmHWM:\s*(\d+) kB", re.MULTILINE)


class PeakBefore:
    """The peak up to the last time that Linux was asked to start anew, which it forgets then."""

    size_bytes = 0


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


def settled_resident_bytes() -> int:
    """What is resident once freed pages are given back, that is, what is in use."""
    give_back_freed_pages()
    return resident_bytes()


def peak_since_mark() -> int:
    """The most memory in bytes since the mark was last set, or since the process began."""
    try:
        found = PEAK_LINE.search(Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) << 10
    # Linux counts KiB, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def peak_bytes_so_far() -> int:
    """The most memory that this process has ever had."""
    return max(PeakBefore.size_bytes, peak_since_mark())


def peak_memory_mb() -> int:
    """The same in MiB."""
    return peak_bytes_so_far() >> 20


def set_mark() -> bool:
    """Let the peak begin at what is resident now. Whether the system does that."""
    before = peak_bytes_so_far()
    try:
        descriptor = os.open(CLEAR_REFS, os.O_WRONLY)
    except OSError:
        return False
    try:
        os.write(descriptor, RESET_PEAK)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    PeakBefore.size_bytes = before
    return True


def peak_of(work: Callable[[], WorkResult]) -> tuple[WorkResult, int | None]:
    """(what `work` returns, bytes by which it rose above what was in use before, at its peak); None: not known here.

    Pages that were freed are given back first: otherwise work that takes them again would seem to need nothing.
    """
    give_back_freed_pages()
    before = resident_bytes()
    known = set_mark()
    result = work()
    return result, max(0, peak_since_mark() - before) if known else None
