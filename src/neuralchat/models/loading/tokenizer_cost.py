"""What a stranger's tokenizer may cost for a text, tried in a child process before it is given any.

Its regular expressions and replacements run in a library that cannot be interrupted.
"""

from __future__ import annotations

from typing import Any

from neuralchat.data.templates.limits import tried_in_child
from neuralchat.errors import ModelError

# A regular expression whose cost grows with the cube of a text's length takes minutes for so many characters.
TRIED_CHARACTERS = 4096
# One kind of character for long, with and without another after it that makes a match fail, and be tried again.
TRIED_UNITS = ("a", "A", "7", " ", "\n", ".", "a ", "a1", "\u00e9", "\u4e2d")
TRIED_TEXTS = tuple(unit * (TRIED_CHARACTERS // len(unit)) + end for unit in TRIED_UNITS for end in ("", "!b"))
# All texts together; a good tokenizer takes some hundredths.
TRIAL_SECONDS = 10.0


def check_tokenizer_cost(tokenizer: Any, what: str) -> None:
    """Raise ModelError, beginning with `what`, where ordinary characters take it too long or too much memory."""

    def work() -> None:
        for text in TRIED_TEXTS:
            tokenizer(text)

    tried_in_child(work, what, seconds=TRIAL_SECONDS, error=ModelError)
