"""Rated answers -> pairs of a better and a worse answer to the same, as preference tuning takes them.

The rows are those of TRL and others: `prompt`, `chosen` and `rejected` are lists of messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from neuralchat.data.record_files import RawRow, SyntaxProblem
from neuralchat.data.records import Record, RecordReport
from neuralchat.data_tools.moving.as_kind import message_row, with_context_in_text
from neuralchat.data_tools.moving.source_rows import ReadRow, turn_key

RATED = "feedback"
UP, DOWN = "up", "down"
# OpenAI's rows of preference, and those that are written here.
PREFERENCE_FIELDS = ("preferred_output", "chosen")


class PromptAndAnswer(NamedTuple):
    """An answer that somebody has rated, and its prompt, as messages."""

    prompt: list[dict[str, Any]]
    answer: dict[str, Any]
    tools: list[Any]


@dataclass
class RatedAnswers:
    """The good and the bad answers to each prompt."""

    good: dict[str, list[PromptAndAnswer]] = field(default_factory=dict)
    bad: dict[str, list[PromptAndAnswer]] = field(default_factory=dict)
    # Answers that were found both good and bad, of which nothing can be learned.
    both: int = 0

    def add(self, row: ReadRow, problems: RecordReport) -> None:
        rating = row.value.get(RATED)
        if rating not in (UP, DOWN):
            problems.refuse(row.record.source, f"has no field '{RATED}' with '{UP}' or '{DOWN}'")
            return
        where = self.good if rating == UP else self.bad
        known = where.setdefault(prompt_key_of(row.record), [])
        # The same answer rated twice is one.
        if (said := answered(row.record)) not in known:
            known.append(said)

    def pairs(self) -> Iterator[dict[str, Any]]:
        """Each bad answer with each good one to the same prompt."""
        self.both = 0
        for key, bad in self.bad.items():
            for worse in bad:
                for better in self.good.get(key, ()):
                    if better.answer == worse.answer:
                        self.both += 1
                        continue
                    tools = {"tools": worse.tools} if worse.tools else {}
                    yield {"prompt": worse.prompt, "chosen": [better.answer], "rejected": [worse.answer], **tools}

    def unpaired(self) -> Iterator[dict[str, Any]]:
        """Bad answers to prompts without a good one, in TRL's form for answers that stand alone."""
        for key, bad in self.bad.items():
            if key not in self.good:
                yield from ({"prompt": worse.prompt, "completion": [worse.answer], "label": False} for worse in bad)

    def good_alone(self) -> int:
        return sum(len(good) for key, good in self.good.items() if key not in self.bad)


def prompt_key_of(record: Record) -> str:
    """What two records have in common that answer the same; which answers are learned does not count."""
    return repr([[*turn_key(turn)[:3], *turn_key(turn)[4:]] for turn in record.turns[:-1]] + list(record.tools))


def answered(record: Record) -> PromptAndAnswer:
    messages = [message_row(with_context_in_text(turn)) for turn in record.turns]
    for message in messages:
        message.pop("weight", None)
    return PromptAndAnswer(messages[:-1], messages[-1], list(record.tools))


def rows_of_preferences(_name: str, rows: Iterator[RawRow | SyntaxProblem]) -> Iterator[RawRow | SyntaxProblem]:
    """Rows that hold a pair become two rated records; others stay."""
    for row in rows:
        sides = sides_of(row.value) if isinstance(row, RawRow) else None
        if sides is None or isinstance(row, SyntaxProblem):
            yield row
        else:
            prompt, tools, better, worse = sides
            for rating, said in ((UP, better), (DOWN, worse)):
                turns = {"messages": [*prompt, *said], RATED: rating}
                yield RawRow(row.number, {**turns, "tools": tools} if tools else turns, row.problems)


def sides_of(value: Any) -> tuple[list[Any], Any, list[Any], list[Any]] | None:
    """(prompt, tools, better answer, worse answer) of a row of OpenAI's or TRL's; None for any other row."""
    if not isinstance(value, dict):
        return None
    held: Mapping[str, Any] = value
    if isinstance(value.get("input"), dict) and "preferred_output" in value:
        held = {
            "prompt": value["input"].get("messages"),
            "tools": value["input"].get("tools"),
            "chosen": value["preferred_output"],
            "rejected": value.get("non_preferred_output"),
        }
    if "chosen" not in held or "rejected" not in held:
        return None
    prompt = as_turns(held.get("prompt"), "user")
    better, worse = (as_turns(held[name], "assistant") for name in ("chosen", "rejected"))
    if not prompt:
        # Whole conversations that differ in their last turn.
        prompt, better, worse = better[:-1], better[-1:], worse[-1:] if worse[:-1] == better[:-1] else worse
    return prompt, held.get("tools"), better, worse


def as_turns(value: Any, role: str) -> list[Any]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [{"role": role, "content": value}]
