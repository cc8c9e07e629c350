"""A difference with its interval -> how it is written, in the terminal, on pages and in model cards alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Smaller numbers than of so many digits are none.
MOST_DIGITS = 9
# What differs by less, of itself, does so by rounding.
SAME_END = 1e-9


def signed_figure(number: float, digits: int) -> str:
    """Rounded, but what is not zero is not shown as zero.

    >>> signed_figure(12.34, 1), signed_figure(-0.004, 1), signed_figure(0.0, 1), signed_figure(-0.0, 0)
    ('+12.3', '-0.004', '0.0', '0')
    """
    while digits < MOST_DIGITS and number and not round(number, digits):
        digits += 1
    rounded = round(number, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def known_ends(interval: Sequence[float] | None) -> Sequence[float] | None:
    """None where an interval says nothing: without an end, or with one end alone since all that was measured is alike.

    >>> known_ends((0.1, 0.2)), known_ends((-math.inf, 0.2)), known_ends((0.3, 0.1 + 0.2)), known_ends(None)
    ((0.1, 0.2), None, None, None)
    """
    if interval is None or not all(map(math.isfinite, interval)):
        return None
    return None if math.isclose(*interval, rel_tol=SAME_END) else interval


def difference_text(
    difference: float, interval: Sequence[float] | None, confidence: float | None, *, share: bool, digits: int
) -> str:
    """`interval`: None or one that says nothing (`known_ends`) where none is known; `confidence`: None where it is
    told elsewhere.

    >>> difference_text(0.1, (0.02, 0.18), 0.96, share=True, digits=1)
    '+10.0 points (+2.0 to +18.0, 96 %)'
    >>> difference_text(0.1, (-math.inf, math.inf), 0.99875, share=False, digits=3)
    '+0.100 (too few for an interval of 99.9 %)'
    """
    factor, unit = (100, " points") if share else (1, "")
    told = f"{signed_figure(factor * difference, digits)}{unit}"
    level = "" if confidence is None else level_text(confidence)
    ends = known_ends(interval)
    if ends is None:
        too_few = interval is not None and not all(map(math.isfinite, interval))
        return f"{told} (too few for an interval{level and f' of {level}'})" if too_few else told
    low, high = (signed_figure(factor * end, digits) for end in ends)
    return f"{told} ({low} to {high}{level and f', {level}'})"


def level_text(confidence: float) -> str:
    """
    >>> level_text(0.95), level_text(0.99875), level_text(1 - 0.05 * 0.02 / 9)
    ('95 %', '99.9 %', '99.99 %')
    """
    missed = 100 * (1 - confidence)
    digits = max(0, math.ceil(-math.log10(missed))) if missed < 1 else 1
    return f"{100 - missed:.{digits}f}".removesuffix(".0") + " %"


# For who has not met one; what it is raised for follows where it is shown.
ADJUSTED_P = "how often chance alone would make at least this large a difference were the two truly alike"


def probability(p: float) -> str:
    """
    >>> probability(0.0301), probability(0.00001)
    ('0.030', '<0.001')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def share_text(share: float, interval: Sequence[float] | None) -> str:
    """A share and its interval of 95 %.

    >>> share_text(0.5, (0.09, 0.91)), share_text(1.0, None)
    ('50%, 9 to 91', '100%')
    """
    return f"{share:.0%}" if interval is None else f"{share:.0%}, {' to '.join(f'{100 * end:.0f}' for end in interval)}"
