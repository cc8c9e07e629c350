"""The C library's allocator: activations are freed and asked for again all the time, so keep their pages."""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_pages() -> bool:
    """Let glibc reuse large freed blocks instead of giving them back to the kernel; returns whether it was set.

    Settings that the user made by environment (MALLOC_..., a preloaded allocator) are left alone.
    """
    if sys.platform != "linux" or os.environ.get("LD_PRELOAD") or any(n.startswith("MALLOC_") for n in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    done = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(done)


def give_back_freed_pages() -> bool:
    """Let glibc give freed blocks back to the kernel once, whatever it was told; returns whether any were."""
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False
