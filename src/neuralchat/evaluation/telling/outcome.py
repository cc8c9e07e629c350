"""All that an evaluation found, as programs take it (JSON), and as the terminal and the page show it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from neuralchat.evaluation.comparison import LOSS, Compared, Measure, Measured, Score, clusters_of
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.statistics import Interval, interval_of
from neuralchat.runs.differences import known_ends, share_text


class Mean(NamedTuple):
    """`share`: answers that are counted; its interval is Wilson's then, else by the bootstrap. Of 95 %."""

    title: str
    mean: float
    share: bool
    interval: Interval


def mean_of(measure: Measure, score: Score, items: Sequence[Item]) -> Mean:
    places = sorted(score.values)
    values, weights = ([by[place] for place in places] for by in (score.values, score.weights))
    interval = interval_of(values, weights, clusters_of(items, places), share=measure.share)
    return Mean(measure.title, score.mean, measure.share, interval)


@dataclass(frozen=True)
class Side:
    """One system with its scores: measure -> place of the item -> score. Losses are sums over the answer's tokens."""

    system: Measured
    scores: Mapping[str, Mapping[int, float]]
    means: Mapping[str, Mean] = field(default_factory=dict)
    is_base: bool = False

    @classmethod
    def of(cls, system: Measured, items: Sequence[Item], measures: Sequence[Measure], *, is_base: bool) -> Side:
        found = {measure: measure.score(items, system) for measure in measures}
        return cls(
            system,
            {measure.name: score.values for measure, score in found.items() if score.values},
            {m.name: mean_of(m, score, items) for m, score in found.items() if score.values},
            is_base,
        )

    def figures(self) -> list[tuple[str, str]]:
        """(title, figure) of each measure, with its interval of 95 %."""
        found = [
            (title, value_text(name, mean, interval, len(self.scores[name]), share=share))
            for name, (title, mean, share, interval) in self.means.items()
        ]
        return [*found, *((name, figure_text(number)) for name, number in self.system.figures.items())]


@dataclass(frozen=True)
class KindOutcome:
    """Of the items of one kind: how many are right in the first and in the last system, and what changed."""

    kind: str
    asked: int
    before: int
    after: int
    lost: int
    gained: int


@dataclass(frozen=True)
class PartOutcome:
    """What was found on one set of items. `sides`: base models first, then the systems in the order of the command.

    `max_new_tokens`: of an answer; None where somebody else asked.
    """

    name: str
    items: Sequence[Item]
    sides: Sequence[Side]
    compared: Sequence[Compared]
    max_new_tokens: int | None = None

    def by_pair(self) -> list[list[Compared]]:
        return [list(rows) for _, rows in groupby(self.compared, key=lambda row: (row.first, row.second))]

    def last_pair(self) -> tuple[Side, Side] | None:
        """The last system and the first that it was compared with, its base model if there is one."""
        last = self.sides[-1]
        beside = next((row.first for row in self.compared if row.second == last.system.name), None)
        first = next((side for side in self.sides if side.system.name == beside), None)
        return None if first is None else (first, last)

    def by_kind(self) -> list[KindOutcome]:
        """Of that pair, what most was lost of first; empty where items are not of several kinds or not checked."""
        pair = self.last_pair()
        before, after = ({}, {}) if pair is None else (side.scores.get("right", {}) for side in pair)
        kinds: dict[str, list[tuple[bool, bool]]] = {}
        for place in before.keys() & after.keys():
            kinds.setdefault(self.items[place].kind, []).append((before[place] > 0, after[place] > 0))
        found = [
            KindOutcome(
                kind=kind,
                asked=len(marks),
                before=sum(one for one, _ in marks),
                after=sum(two for _, two in marks),
                lost=sum(one and not two for one, two in marks),
                gained=sum(two and not one for one, two in marks),
            )
            for kind, marks in kinds.items()
        ]
        return sorted(found, key=lambda row: (row.gained - row.lost, -row.lost, row.kind)) if len(found) > 1 else []

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "questions": len(self.items),
            **({} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens}),
            "systems": [
                {
                    "name": side.system.name,
                    "step": side.system.step,
                    "scores": {name: found.mean for name, found in side.means.items()},
                    "intervals": {name: known_ends(found.interval) for name, found in side.means.items()},
                    **({"perplexity": perplexity(side.means[LOSS].mean)} if LOSS in side.means else {}),
                    **({"figures": dict(side.system.figures)} if side.system.figures else {}),
                }
                for side in self.sides
            ],
            "compared": [row_as_json(row) for row in self.compared],
            **({"kinds": [asdict(row) for row in kinds]} if (kinds := self.by_kind()) else {}),
            "items": [self.item_as_json(place, item) for place, item in enumerate(self.items)],
        }

    def item_as_json(self, place: int, item: Item) -> dict[str, Any]:
        known = {
            "source": item.source,
            "question": item.question,
            "expected": item.expected,
            "facts": list(item.facts),
            "checks": dict(item.checks),
            "kind": item.kind,
            "cluster": item.cluster,
        }
        return {**{name: value for name, value in known.items() if value}, "systems": self.said(place)}

    def said(self, place: int) -> dict[str, Any]:
        """By the name of the system, what it answered to an item, and how that was scored."""
        found = {}
        for side in self.sides:
            answer, loss = side.system.answers.get(place), side.system.losses.get(place)
            own: dict[str, Any] = {}
            if answer is not None:
                own |= {"answer": answer.text, "tokens": answer.tokens, "finished": answer.finished}
            if loss is not None:
                own |= {"loss": loss.total / loss.tokens, "loss_tokens": loss.tokens}
            scores = {name: by[place] for name, by in side.scores.items() if place in by and name != LOSS}
            found[side.system.name] = {**own, "scores": scores}
        return found


@dataclass(frozen=True)
class EvaluationOutcome:
    """`detect`: the size of a difference of shares that was asked about, from 0 to 1."""

    detect: float
    parts: Sequence[PartOutcome]

    def as_json(self) -> dict[str, Any]:
        return {"detect": self.detect, "parts": [part.as_json() for part in self.parts]}


def row_as_json(row: Compared) -> dict[str, Any]:
    """An interval of which nothing is known is null."""
    return {name: known_ends(value) if isinstance(value, tuple) else value for name, value in asdict(row).items()}


def figure_text(number: float) -> str:
    """
    >>> figure_text(0.25), figure_text(31415.9)
    ('0.25', '3.142e+04')
    """
    return f"{number:.4g}"


def value_text(measure: str, number: float, interval: Interval | None, questions: int, *, share: bool) -> str:
    """A measure of one system, with its interval where one is given and known.

    >>> value_text("right", 0.5, Interval(0.09, 0.91), 2, share=True)
    '1 of 2 (50%, 9 to 91)'
    >>> value_text(LOSS, 2.0, Interval(1.5, 2.5), 2, share=False), value_text(LOSS, 2.0, None, 2, share=False)
    ('2.000 (1.500 to 2.500, perplexity 7.39)', '2.000 (perplexity 7.39)')
    """
    if share:
        return f"{number * questions:.0f} of {questions} ({share_text(number, interval)})"
    form = ".1f" if measure == "tokens" else ".3f"
    ends = known_ends(interval)
    more = [] if ends is None else [" to ".join(f"{end:{form}}" for end in ends)]
    more += [f"perplexity {perplexity(number):.2f}"] if measure == LOSS else []
    return f"{number:{form}} ({', '.join(more)})" if more else f"{number:{form}}"


def perplexity(loss: float) -> float:
    """exp of a mean cross entropy in nats."""
    return math.exp(min(loss, 700.0))
