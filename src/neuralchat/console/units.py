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


def counted(number: int) -> str:
    """
    >>> counted(6_738_415_616), counted(4_194_304), counted(1792)
    ('6.7 billion', '4.2 million', '1,792')
    """
    if number >= 1e9:
        return f"{number / 1e9:.1f} billion"
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,}"


def duration(seconds: float) -> str:
    """
    >>> duration(40), duration(4000), duration(100_000), duration(1_000_000)
    ('40 seconds', '67 minutes', '28 hours', '12 days')
    """
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
