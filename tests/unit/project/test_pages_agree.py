"""What the pages say of flags is so, and sentences that confused new users do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuralchat.config.schema import SCHEMA

ROOT = Path(__file__).parents[3]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
REFUSAL = re.compile(r"\b(not supported|unsupported|not implemented)\b")
CONFUSING = (
    "to the bit",
    "Where that directory is not there, the name is used",
    "The order of the records matters to the last few",
    "42 and 43",
)


def refused_flags(text: str) -> set[str]:
    """The flags of each sentence, or row of a table, that says of something that it is not supported."""
    blocks = re.split(r"\n\n|\n(?=[|#])", text)
    sentences = [" ".join(part.split()) for block in blocks for part in re.split(r"(?<=\.)\s", block)]
    return {name for part in sentences if REFUSAL.search(part) for name in re.findall(r"--(\w+)", part)}


def test_the_search_finds_them() -> None:
    text = "`--special_tokens` is not\nsupported. `--seed` is.\n\n| `--a` | not supported |\n| `--b` | x |"
    assert refused_flags(text) == {"special_tokens", "a"}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_calls_not_supported_is_refused(page: str) -> None:
    wrong = {
        name
        for name in refused_flags(PAGES[page])
        if name in SCHEMA.arguments and not SCHEMA.arguments[name].facts.rejected
    }
    # Named as what to give instead.
    assert wrong - {"bf16"} == set()


@pytest.mark.parametrize("page", PAGES)
def test_sentences_that_confused(page: str) -> None:
    text = " ".join(PAGES[page].split())
    assert [sentence for sentence in CONFUSING if sentence in text] == []
