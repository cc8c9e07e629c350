"""Is this stream a terminal that people look at, and what may be written to it?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

# Written to a terminal, these move the cursor, change colours or titles, or ring; they are shown as \x1b and so on.
CONTROL_CHARACTERS = [*range(0x20), *range(0x7F, 0xA0)]
# These change the order in which the text around them is shown, or end a line. The marks that Arabic and Hebrew text
# needs (U+200E, U+200F, U+061C) are none of them: they have no effect beyond their neighbours.
REORDERING_CHARACTERS = [0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
VISIBLE = {
    **{code: f"\\x{code:02x}" for code in CONTROL_CHARACTERS if chr(code) not in "\n\t"},
    **{code: f"\\u{code:04x}" for code in REORDERING_CHARACTERS},
}


def is_terminal(stream: Any, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `stream` is a terminal whose lines can be rewritten."""
    try:
        return stream.isatty() and environ.get("TERM", "").lower() not in ("dumb", "unknown")
    except (AttributeError, ValueError):
        # None, something else that is no file, or a closed one.
        return False


def shows_unicode(encoding: str | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether frames and bars may be drawn with more than ASCII.

    Python writes UTF-8 in the C locale too (PEP 540); the terminal of one who asks for that locale may not read it.
    """
    locale = next((environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environ.get(name)), "")
    return locale not in ("C", "POSIX") and (encoding or "utf-8").lower().startswith("utf")


def visible(text: str) -> str:
    """`text` with its control characters spelled out, and those that reorder it; line ends and tabs stay.

    >>> visible("a" + chr(27) + "[31m" + chr(0x202e))
    'a\\\\x1b[31m\\\\u202e'
    """
    if text.isascii() and text.isprintable():
        return text
    return text.replace("\r\n", "\n").translate(VISIBLE).encode("utf-8", "backslashreplace").decode("utf-8")
