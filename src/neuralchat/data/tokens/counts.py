"""What became of the records of one source on the way to tokens, and the sentences a user should read about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

KEPT_UNUSABLE = 100
# Of the rows that a user should look at, as many are told.
KEPT_ROWS = 5


@dataclass(slots=True)
class TokenizationCounts:
    """What became of the records of one source.

    `unusable` are the first records that cannot be trained on, `unlisted` counts those after them. Of the others that
    a user should look at, the first rows are kept.
    """

    examples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    longest: int = 0
    cut_examples: int = 0
    cut_tokens: int = 0
    lost_reasoning: int = 0
    split_records: int = 0
    unusable: list[str] = field(default_factory=list)
    unlisted: int = 0
    # Texts without a prompt that were longer than an example may be, and what they became.
    split_texts: int = 0
    split_examples: int = 0
    # Answers with characters that the vocabulary does not have, and how many tokens stand for them.
    unknown_examples: int = 0
    unknown_tokens: int = 0
    unknown_rows: list[str] = field(default_factory=list)
    # Answers with line breaks or tabs that the tokenizer turns into spaces.
    flattened_examples: int = 0
    flattened_rows: list[str] = field(default_factory=list)

    def leave_out(self, reason: str) -> None:
        if len(self.unusable) < KEPT_UNUSABLE:
            self.unusable.append(reason)
        else:
            self.unlisted += 1

    def notices(self, limit: str) -> list[str]:
        """Sentences a user should read: what was cut and what could not be used."""
        found = []
        if self.cut_examples:
            found.append(
                f"{self.cut_examples} of {self.examples} examples were longer than {limit}: "
                f"{self.cut_tokens} tokens of prompt text were cut, answers are whole"
            )
        if self.lost_reasoning:
            found.append(f"the template leaves out the reasoning of {self.lost_reasoning} answer(s)")
        if self.split_records:
            found.append(
                f"{self.split_records} record(s) became several examples, one for each answer: the template writes an "
                "answer otherwise once more is said"
            )
        if self.split_texts:
            found.append(
                f"{self.split_texts} texts were longer than {limit}: they became {self.split_examples} examples"
            )
        if self.unknown_examples:
            found.append(
                f"{self.unknown_examples} answers have characters that the vocabulary does not have: "
                f"{self.unknown_tokens} unknown tokens are trained on, and will be said; "
                f"{first_rows(self.unknown_rows, self.unknown_examples)}"
            )
        if self.flattened_examples:
            found.append(
                f"{self.flattened_examples} answers have line breaks or tabs, which this tokenizer turns into spaces: "
                f"{first_rows(self.flattened_rows, self.flattened_examples)}"
            )
        if self.unusable:
            count = len(self.unusable) + self.unlisted
            found.append(f"{count} record(s) cannot be trained on and are left out: {first_rows(self.unusable, count)}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """What most data has none of is left out."""
        rare = ("lost_", "split_", "unlisted", "unknown_", "flattened_")
        return {key: value for key, value in asdict(self).items() if value or not key.startswith(rare)}


def first_rows(rows: Sequence[str], count: int) -> str:
    """The first of `count` rows, and how many more there are."""
    more = f"; and {count - KEPT_ROWS} more" if count > KEPT_ROWS else ""
    return "; ".join(rows[:KEPT_ROWS]) + more
