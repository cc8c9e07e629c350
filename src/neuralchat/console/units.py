"""Numbers with their units, as people read them."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """
    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed(per_second: float) -> str:
    """
    >>> speed(23906.4), speed(2.0), speed(0.314)
    ('23906', '2', '0.31')
    """
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"


def gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
