"""What two systems said to the same items -> their scores beside each other, and whether a difference can be seen.

Of a pair of systems, over all measures on the same items, a difference is claimed falsely in at most ALPHA of all
evaluations (Holm). The headline is given most of that. Each pair stands by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.loss import AnswerLoss
from neuralchat.evaluation.scoring.scorers import CHECKING, RIGHT, SCORERS, Scorer
from neuralchat.evaluation.statistics import (
    Interval,
    bootstrap,
    effective_number,
    holm,
    is_seen,
    mcnemar,
    needed_of_mean,
    paired_shares,
    questions_needed,
    sign_flips,
    visible_difference,
    wilson,
)

NO_DIFFERENCE = "no difference can be seen"
# The headline's part of what may be claimed falsely; the other measures share the rest.
HEADLINE_WEIGHT = 0.8
LOSS, LOSS_TITLE = "loss", "loss on answers"


@dataclass(frozen=True)
class Measured:
    """What one system made of the items, by their places. `step`: of a checkpoint, the step it was saved at.

    `given`: scores that others counted, measure -> place -> score; `figures`: those that have no part by item.
    """

    name: str
    answers: Mapping[int, Answered] = field(default_factory=dict)
    losses: Mapping[int, AnswerLoss] = field(default_factory=dict)
    step: int | None = None
    given: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A measure of one system: sum(values) / sum(weights), by the places of the items."""

    values: Mapping[int, float]
    weights: Mapping[int, float]

    @property
    def mean(self) -> float:
        return sum(self.values.values()) / sum(self.weights.values())


@dataclass(frozen=True)
class Measure:
    """`better`: "higher" or "lower" is to the good, or neither. `share`: answers that are counted, not a mean."""

    name: str
    title: str
    score: Callable[[Sequence[Item], Measured], Score]
    share: bool = False
    better: str = "higher"


@dataclass(frozen=True)
class Compared:
    """A measure of two systems. Intervals are of 95 %; `difference` is that of `second` minus `first`.

    `clusters`: how many, where questions belong together. `lost` and `gained`: of a share, the questions that only the
    first, or only the second, has. `p`: of no difference; `adjusted_p`: for all measures of the pair (Holm). `needed`:
    how many questions would show a difference of the size that was asked about; `visible`: of a share, the smallest one
    that so many show.
    """

    measure: str
    title: str
    first: str
    second: str
    share: bool
    better: str
    questions: int
    clusters: int | None
    before: float
    after: float
    before_interval: Interval
    after_interval: Interval
    difference: float
    interval: Interval
    p: float
    lost: int | None = None
    gained: int | None = None
    needed: int | None = None
    visible: float | None = None
    headline: bool = False
    adjusted_p: float = 1.0
    says: str = NO_DIFFERENCE


def measure_of(scorer: Scorer) -> Measure:
    def score(items: Sequence[Item], system: Measured) -> Score:
        values = {
            place: float(scorer.score(items[place], answer))
            for place, answer in system.answers.items()
            if scorer.applies(items[place])
        }
        return Score(values, dict.fromkeys(values, 1.0))

    return Measure(scorer.name, scorer.title, score, scorer.share, scorer.better)


def loss_score(_items: Sequence[Item], system: Measured) -> Score:
    losses = system.losses
    return Score({p: loss.total for p, loss in losses.items()}, {p: float(loss.tokens) for p, loss in losses.items()})


LOSS_MEASURE = Measure(LOSS, LOSS_TITLE, loss_score, better="lower")


def measures_for(items: Sequence[Item], more: Sequence[Scorer] = ()) -> list[Measure]:
    """Those that these items can be measured by, the headline first. `more`: scorers of the user's own."""
    checks = [scorer for scorer in CHECKING if any(map(scorer.applies, items))]
    # Where all are checked in one way, that one says the same.
    left_out = {scorer.name for scorer in checks} if len(checks) < 2 else set()
    rows = [*SCORERS[:1], *more, *SCORERS[1:]]
    found = [measure_of(s) for s in rows if s.name not in left_out and any(map(s.applies, items))]
    if any(item.record is not None for item in items):
        place = sum(measure.name == RIGHT.name for measure in found) + len(more)
        found.insert(place, LOSS_MEASURE)
    return found


def compared(
    items: Sequence[Item], measure: Measure, first: Measured, second: Measured, *, detect: float
) -> Compared | None:
    """None where no item has been measured in both. `detect`: the size of a difference that one wants to see."""
    one, two = measure.score(items, first), measure.score(items, second)
    places = sorted(one.values.keys() & two.values.keys())
    if not places:
        return None
    before, after, weights = (np.array([found[p] for p in places]) for found in (one.values, two.values, one.weights))
    keys = [items[place].cluster for place in places]
    clusters = None if None in keys else keys
    differences, total = after - before, float(weights.sum())
    known: dict[str, Any] = {}
    if measure.share:
        lost, gained = int((differences < 0).sum()), int((differences > 0).sum())
        changed = (lost + gained) / len(places)
        known = {
            "lost": lost,
            "gained": gained,
            "needed": questions_needed(detect, changed),
            "visible": visible_difference(len(places), changed),
        }
        intervals = [wilson(v.mean() * n, n) for v in (before, after) for n in [effective_number(v, clusters)]]
    else:
        intervals = [bootstrap(v, weights, clusters) for v in (before, after)]
        if measure.name != "tokens" and (deviation := spread(differences, weights)) > 0:
            known = {"needed": needed_of_mean(detect, deviation)}
    if measure.share and clusters is None:
        interval, p = paired_shares(lost, gained, len(places)), mcnemar(lost, gained)
    else:
        interval, p = bootstrap(differences, weights, clusters), sign_flips(differences, clusters)
    return Compared(
        measure=measure.name,
        title=measure.title,
        first=first.name,
        second=second.name,
        share=measure.share,
        better=measure.better,
        questions=len(places),
        clusters=None if clusters is None else len(set(clusters)),
        before=float(before.sum() / total),
        after=float(after.sum() / total),
        before_interval=intervals[0],
        after_interval=intervals[1],
        difference=float(differences.sum() / total),
        interval=interval,
        p=p,
        **known,
    )


def spread(differences: np.ndarray, weights: np.ndarray) -> float:
    """The standard deviation of what one question adds to the difference of means."""
    mean = differences.sum() / weights.sum()
    return float(np.sqrt(np.mean((differences - mean * weights) ** 2)) / weights.mean())


def compare_pairs(
    items: Sequence[Item],
    measures: Sequence[Measure],
    pairs: Sequence[tuple[Measured, Measured]],
    *,
    detect: float = 0.05,
    of_pair: Callable[[Measured, Measured], Sequence[Measure]] = lambda _first, _second: (),
) -> list[Compared]:
    """All measures of all pairs, each pair's headline first, with what can be said of each.

    `of_pair`: measures that there are of a pair only, such as which of two a judge prefers.
    """
    rows: list[Compared] = []
    for first, second in pairs:
        all_measures = (*measures, *of_pair(first, second))
        found = [compared(items, measure, first, second, detect=detect) for measure in all_measures]
        told = [row for row in found if row is not None]
        others = max(len(told) - 1, 1)
        weights = [HEADLINE_WEIGHT, *[(1 - HEADLINE_WEIGHT) / others] * (len(told) - 1)]
        raised = holm([row.p for row in told], weights)
        rows += [
            with_words(replace(row, headline=place == 0), p)
            for place, (row, p) in enumerate(zip(told, raised, strict=True))
        ]
    return rows


def with_words(row: Compared, adjusted_p: float) -> Compared:
    if not is_seen(adjusted_p, row.interval):
        says = NO_DIFFERENCE
    elif not row.better:
        says = "more" if row.difference > 0 else "fewer"
    else:
        says = "better" if (row.difference > 0) == (row.better == "higher") else "worse"
    return replace(row, adjusted_p=adjusted_p, says=says)
