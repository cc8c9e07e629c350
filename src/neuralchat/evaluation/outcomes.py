"""What systems made of the parts -> what was found on each part: scores, comparisons, opinions of a judge."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise

from neuralchat.console import note
from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.comparison import Measure, Measured, compare_pairs
from neuralchat.evaluation.harness import Harness, harness_measures
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.scoring.judge import Judge
from neuralchat.evaluation.telling.outcome import PartOutcome, Side
from neuralchat.inference.terminal.server_bot import RefusingServerError

# Each system with its base model before it, where that was asked too; part by part.
SystemPairs = Sequence[tuple[Mapping[str, Measured] | None, Mapping[str, Measured]]]


def every_answer(
    parts: Mapping[str, Sequence[Item]],
    measured: SystemPairs,
) -> Iterator[tuple[Item, Answered]]:
    """Every answer of every system, with what was asked."""
    for name, items in parts.items():
        for system in (system[name] for pair in measured for system in pair if system is not None):
            yield from ((items[place], answer) for place, answer in system.answers.items())


def part_outcome(
    name: str,
    items: Sequence[Item],
    measures: Sequence[Measure],
    measured: SystemPairs,
    options: argparse.Namespace,
    judge: Judge | None = None,
    *,
    max_new_tokens: int | None = None,
) -> PartOutcome:
    pairs = pairs_of_systems(measured, name, along=options.checkpoints)
    return PartOutcome(
        name=name,
        items=items,
        sides=sides_of_part(name, items, measures, measured),
        compared=compare_pairs(
            items,
            measures,
            pairs,
            detect=options.detect / 100,
            of_pair=lambda first, second: opinion_of(judge, items, first, second),
        ),
        max_new_tokens=max_new_tokens,
    )


def pairs_of_systems(measured: SystemPairs, part: str, *, along: bool) -> list[tuple[Measured, Measured]]:
    """Each system beside its base model; then each beside the next along training, or each beside each other."""
    own = [(base[part], tuned[part]) for base, tuned in measured if base is not None]
    tuned = [system[part] for _, system in measured]
    return [*own, *(pairwise(tuned) if along else combinations(tuned, 2))]


def sides_of_part(
    name: str,
    items: Sequence[Item],
    measures: Sequence[Measure],
    measured: SystemPairs,
) -> list[Side]:
    """Base models first, each once, then the systems."""
    bases = {base[name].name: base[name] for base, _ in measured if base is not None}
    sides = [Side.of(base, items, measures, is_base=True) for base in bases.values()]
    return [*sides, *(Side.of(system[name], items, measures, is_base=False) for _, system in measured)]


def opinion_of(judge: Judge | None, items: Sequence[Item], first: Measured, second: Measured) -> list[Measure]:
    """What the judge prefers, if there is one; after it has failed it is not asked again."""
    if judge is None or judge.failure is not None:
        return []
    try:
        judged = judge.judged(items, first, second)
    except RefusingServerError as error:
        judge.failure = error
        return []
    doubts = {"preferred the same place in both orders": judged.swayed, "named no verdict": judged.unread}
    for what, count in doubts.items():
        if count:
            note(f"{judge.name} {what} {count} time(s); such pairs are ties")
    return [judge.measure(judged, first, second)]


def harness_outcomes(
    harness: Harness | None,
    measured: SystemPairs,
    options: argparse.Namespace,
) -> list[PartOutcome]:
    """A part for each task. No judge: the harness has scores of its own, and lengths of answers too."""
    if harness is None:
        return []
    found = []
    for name, items in harness.items.items():
        systems = [system[name] for pair in measured for system in pair if system is not None]
        measures = harness_measures(harness.loaded["tasks"][name], systems)
        found.append(part_outcome(name, items, measures, measured, options))
    return found
