"""What was found -> lines and tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from neuralchat.console import put, show_page
from neuralchat.console.tables import Page
from neuralchat.data.records import Fact
from neuralchat.evaluation.facts import alternatives_of
from neuralchat.evaluation.items import GENERAL
from neuralchat.evaluation.scoring.judge import Judge
from neuralchat.evaluation.telling.outcome import EvaluationOutcome, PartOutcome
from neuralchat.evaluation.telling.terminal_tables import (
    comparison_page,
    figures_table,
    number_asked,
    p_text,
    page_of_one,
    runs_table,
)
from neuralchat.runs.differences import share_text
from neuralchat.runs.summary import before_and_after

# Of more pairs of systems the terminal shows the headline and the loss only.
MOST_PAIRS = 3


def tell_outcome(outcome: EvaluationOutcome, judge: Judge | None, *, show: bool) -> None:
    if show:
        for part in outcome.parts:
            print_wrong(part)
    tell_parts(outcome)
    if judge is not None:
        put(judge.cost())


def print_wrong(part: PartOutcome) -> None:
    """The wrong answers of the last system."""
    last = part.sides[-1]
    for place, score in last.scores.get("right", {}).items():
        item, answer = part.items[place], last.system.answers[place]
        if not score:
            asked = facts_text(item.facts) or ", ".join(f"{name} {value}" for name, value in item.checks.items())
            put(f"wrong  {item.question}\n       said: {answer.text}\n       facts: {asked}")


def facts_text(facts: Sequence[Fact]) -> str:
    return ", ".join(" or ".join(alternatives_of(fact)) for fact in facts)


def tell_parts(outcome: EvaluationOutcome) -> None:
    for part in outcome.parts:
        pairs = part.by_pair()
        if not pairs and len(part.sides) == 1:
            show_page(page_of_one(part))
        for rows in pairs if len(pairs) <= MOST_PAIRS else ():
            show_page(comparison_page(part.name, rows, outcome.detect))
        if len(part.sides) > 1 and (figures := figures_table(part)) is not None:
            show_page(Page([f"\n{part.name}: figures of the whole, which have no interval", figures]))
        if len(pairs) > 1:
            chance = f"of pairs that do not differ, about one in twenty seems to; these are {len(pairs)} pairs"
            about_p = [p_text(pairs[0])] if len(pairs) > MOST_PAIRS else []
            show_page(
                Page([f"\n{part.name}: {number_asked(pairs[0][0])}", runs_table(part.compared), *about_p, chance])
            )
        if len(pairs) > MOST_PAIRS:
            put("--report FILE.html and --output FILE.json hold the other measures of each pair")
    for part in outcome.parts:
        if (said := kept_and_lost(part)) is not None:
            put(f"{part.name}{of_whom(part)}: {said}")
    for part in outcome.parts:
        tell_right(part)


def of_whom(part: PartOutcome) -> str:
    """The name of the last system, where there are several beside base models."""
    return f" of {part.sides[-1].system.name}" if sum(not side.is_base for side in part.sides) > 1 else ""


def kept_and_lost(part: PartOutcome) -> str | None:
    """Of the last system and its base model."""
    pair = part.last_pair()
    if pair is None or not all("right" in side.scores for side in pair):
        return None
    before, after = (side.scores["right"] for side in pair)
    said = before_and_after(
        [{"right_before": before[p] > 0, "right_after": after[p] > 0} for p in before if p in after]
    )
    lost = ", ".join(f"{row.kind} {row.lost}" for row in part.by_kind() if row.lost)
    return f"{said}; lost of {lost}" if lost else said


def tell_right(part: PartOutcome) -> None:
    """How many answers of the last system are right."""
    last = part.sides[-1]
    right = last.scores.get("right")
    if right:
        count, what = (
            sum(value > 0 for value in right.values()),
            "general answers" if part.name == GENERAL else "answers",
        )
        only_facts = not any(part.items[place].checks for place in right)
        verb = "state the right fact" if only_facts else "are right"
        sure = share_text(count / len(right), last.means["right"].interval)
        put(f"{count} of {len(right)} {what}{of_whom(part)} {verb} ({sure} with 95 % confidence)")
        cut = sum(not value and not last.system.answers[place].finished for place, value in right.items())
        if cut:
            put(f"of the others, cut off before their end: {cut}; a larger --max_new_tokens lets answers end")
