"""What was made so far: the records that were accepted, and why all else was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuralchat.data.record_files import readable
from neuralchat.data.records import Turn
from neuralchat.data_tools.generating.filters import Refusal
from neuralchat.data_tools.generating.rouge_index import Nearest, RougeIndex

# A task that is so like one that was accepted is refused (Self-Instruct, Wang et al., 2022).
TOO_ALIKE = 0.7
# From here on two tasks are told as near each other in the report.
RATHER_ALIKE = 0.6
KEPT_EXAMPLES = 3
EXAMPLE_WIDTH = 160
NO_REPLY, UNREADABLE, ALIKE = "no_reply", "unreadable", "too_alike"
LOW_SCORE = "low_score"


@dataclass
class TaskCandidate:
    """A task that passed its filters. `shown`: ids of the tasks that its request showed; `nearest`: what is like it."""

    instruction: str
    is_classification: bool
    asked_in: list[int]
    shown: Sequence[str] = ()
    nearest: tuple[float, str] = (0.0, "")


@dataclass
class Draft:
    """A record before a critic has seen it: its row without provenance, and what it was made of."""

    row: dict[str, Any]
    question: str
    answer: str
    passage: str
    provenance: dict[str, Any]


@dataclass
class Refused:
    count: int = 0
    examples: list[str] = field(default_factory=list)


class MadeRecords:
    """`keep`: what is done with the row of each record, in order. `near`: pairs of tasks that are rather alike."""

    def __init__(self, keep: Callable[[Mapping[str, Any]], None] = lambda _: None) -> None:
        self.keep = keep
        self.rows: list[dict[str, Any]] = []
        self.refused: dict[str, Refused] = {}
        self.index = RougeIndex(floor=RATHER_ALIKE)
        # By place in the index: what is shown of a text.
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.near: list[tuple[float, str, str]] = []
        self.scores: Counter[int] = Counter()

    def refuse(self, refusal: Refusal) -> None:
        found = self.refused.setdefault(refusal.reason, Refused())
        found.count += 1
        if len(found.examples) < KEPT_EXAMPLES:
            found.examples.append(readable(" ".join(refusal.seen.split()), EXAMPLE_WIDTH))

    def note_text(self, text_id: str, text: str) -> int:
        """From now on tasks that are like this one are refused."""
        self.ids.append(text_id)
        self.texts.append(text)
        return self.index.add(text)

    def alike(self, text: str, *, but: Sequence[int] = ()) -> tuple[Nearest, Refusal | None]:
        nearest = self.index.nearest(text, but=but)
        if nearest.place is None or nearest.score < TOO_ALIKE:
            return nearest, None
        other = self.texts[nearest.place]
        return nearest, Refusal(ALIKE, f"ROUGE-L {nearest.score:.2f} with {self.ids[nearest.place]} ({other}): {text}")

    def note_near(self, nearest: Nearest, text: str) -> None:
        if nearest.place is not None:
            self.near.append((nearest.score, text, self.texts[nearest.place]))

    def accept(self, draft: Draft) -> str:
        """The id that the record has."""
        name = f"made-{len(self.rows) + 1:05}"
        row = {**draft.row, "provenance": {"id": name, **draft.provenance}}
        self.rows.append(row)
        self.keep(row)
        return name


def alpaca_row(instruction: str, material: str, output: str) -> dict[str, Any]:
    return {"instruction": instruction, "input": material, "output": output}


def alpaca_turns(row: Mapping[str, Any]) -> list[Turn]:
    return [Turn("user", row["instruction"], row["input"]), Turn("assistant", row["output"])]


def generated_row(turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}
