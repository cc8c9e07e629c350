"""The package's own general prompts: what a base model is asked that has nothing to do with the data it is tuned on.

Files that share no prompt, not even reworded: one to rehearse, so that it is not forgotten, two that only measure.
data/general/README.md says what a line holds, and that anybody may use them (CC0).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from neuralchat.data.records import Fact, Turn, facts_from


@dataclass(frozen=True, slots=True)
class GeneralPrompt:
    """A question, and what a helpful assistant answers, where one is written down.

    `context` is Alpaca's `input`: material that the instruction is about. `language` is the ISO 639-1 code of a prompt
    in or about a language other than English, else empty. `facts` are what a right answer contains
    (`neuralchat.evaluation.facts.states_facts`); empty where no one answer is right. `checks` are rules that it keeps
    (`neuralchat.evaluation.items.CHECKS`).
    """

    instruction: str
    kind: str
    context: str = ""
    language: str = ""
    facts: tuple[Fact, ...] = ()
    answer: str = ""
    checks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def turns(self) -> tuple[Turn]:
        """The conversation that it is, as `Chatbot.answers` takes them."""
        return (Turn("user", self.instruction, self.context),)


def rehearsal_prompts() -> list[GeneralPrompt]:
    """Those on which the base model is held on to, in a fixed order, kind by kind; all have answers."""
    return list(prompts_of("rehearse.jsonl"))


def measured_prompts() -> list[GeneralPrompt]:
    """Those that only measure, in a fixed order, kind by kind; all have facts. Never train or tune on them."""
    return list(prompts_of("measure.jsonl"))


def checked_prompts() -> list[GeneralPrompt]:
    """Those that only measure whose answers are checked by rule, in a fixed order, kind by kind; all have answers, and
    facts or checks. Never train or tune on them.
    """
    return list(prompts_of("checked.jsonl"))


def prompts_of(name: str) -> Iterator[GeneralPrompt]:
    text = (files("neuralchat.data") / "general" / name).read_text(encoding="utf-8")
    # Not splitlines(): text may hold other line breaks, such as U+2028.
    for line in text.rstrip("\n").split("\n"):
        row = json.loads(line)
        yield GeneralPrompt(
            instruction=row["instruction"],
            kind=row["kind"],
            context=row.get("input", ""),
            language=row.get("language", ""),
            facts=facts_from(row.get("facts", ())),
            answer=row.get("answer", ""),
            checks=row.get("checks", {}),
        )
