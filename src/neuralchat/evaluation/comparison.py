"""What two systems said to the same items -> their scores beside each other, and whether a difference can be seen.

Of a pair of systems, over all measures on the same items, a difference is claimed falsely in at most ALPHA of all
evaluations (Holm). The headline is given most of that. Each pair stands by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.loss import AnswerLoss
from neuralchat.evaluation.power import needed_of_mean, questions_needed, visible_difference
from neuralchat.evaluation.scoring.scorers import CHECKING, RIGHT, SCORERS, Scorer
from neuralchat.evaluation.statistics import (
    ALPHA,
    CONFIDENCE,
    Interval,
    Tested,
    holm,
    interval_of,
    paired_share_test,
    sign_flip_test,
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
    """A measure of two systems; `difference` is that of `second` minus `first`.

    `before_interval` and `after_interval` are of 95 %, `interval` of `confidence`: it is without zero just where
    `adjusted_p` is below 5 % and `says` claims a difference. `p`: of no difference, were this measure alone;
    `adjusted_p`: for all `measures` of the pair (Holm). `weight`: how much of what may be claimed falsely it was given.
    `clusters`: how many, where questions belong together. `differing`: of how many questions the scores differ; `lost`
    and `gained`: of a share, the questions that only the first, or only the second, has. `needed`: how many questions
    would show a difference of the size that was asked about; `visible`: of a share, the smallest one that so many show,
    None where they show none.
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
    differing: int
    p: float
    interval: Interval = Interval(-math.inf, math.inf)
    confidence: float = CONFIDENCE
    lost: int | None = None
    gained: int | None = None
    needed: int | None = None
    visible: float | None = None
    headline: bool = False
    adjusted_p: float = 1.0
    measures: int = 1
    weight: float = 1.0
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
    """Those that these items can be measured by, the headline first: what the user brought to score by (`more`), else
    right answers, else the loss, else what there is.
    """
    checks = [scorer for scorer in CHECKING if any(map(scorer.applies, items))]
    # Where all are checked in one way, that one says the same.
    left_out = {scorer.name for scorer in checks} if len(checks) < 2 else set()
    rows = [*more, *SCORERS]
    found = [measure_of(s) for s in rows if s.name not in left_out and any(map(s.applies, items))]
    if any(item.record is not None for item in items):
        place = sum(measure.name == RIGHT.name for measure in found) + len(more)
        found.insert(place, LOSS_MEASURE)
    return found


class Tried(NamedTuple):
    """A row that does not say anything yet, its test, and of a mean how much one question moves the difference."""

    row: Compared
    test: Tested
    deviation: float | None


def clusters_of(items: Sequence[Item], places: Sequence[int]) -> list[str] | None:
    """Of the items at these places, what each belongs to; None where any of them stands alone."""
    found = [items[place].cluster for place in places]
    known = [cluster for cluster in found if cluster is not None]
    return known if len(known) == len(found) else None


def compared(items: Sequence[Item], measure: Measure, first: Measured, second: Measured) -> Tried | None:
    """None where no item has been measured in both."""
    one, two = measure.score(items, first), measure.score(items, second)
    places = sorted(one.values.keys() & two.values.keys())
    if not places:
        return None
    before, after, weights = (np.array([found[p] for p in places]) for found in (one.values, two.values, one.weights))
    clusters = clusters_of(items, places)
    differences, total = after - before, float(weights.sum())
    lost, gained = int((differences < 0).sum()), int((differences > 0).sum())
    if measure.share and clusters is None:
        test = paired_share_test(lost, gained, len(places))
    else:
        test = sign_flip_test(differences, weights, clusters)
    intervals = [interval_of(values, weights, clusters, share=measure.share) for values in (before, after)]
    row = Compared(
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
        differing=lost + gained,
        p=test.p,
        lost=lost if measure.share else None,
        gained=gained if measure.share else None,
    )
    return Tried(row, test, None if measure.share or measure.name == "tokens" else spread(differences, weights))


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
        tried = [found for m in all_measures if (found := compared(items, m, first, second)) is not None]
        others = len(tried) - 1
        weights = [HEADLINE_WEIGHT, *[(1 - HEADLINE_WEIGHT) / others] * others] if others else [1.0]
        corrected = holm([found.row.p for found in tried], weights)
        for place, (found, weight, (p, alpha)) in enumerate(zip(tried, weights, corrected, strict=True)):
            row = replace(
                found.row,
                headline=place == 0,
                adjusted_p=p,
                interval=found.test.interval(alpha),
                confidence=1 - alpha,
                measures=len(tried),
                weight=weight,
            )
            rows.append(replace(row, says=words_for(row), **what_it_takes(row, detect, found.deviation)))
    return rows


def words_for(row: Compared) -> str:
    if row.adjusted_p >= ALPHA:
        return NO_DIFFERENCE
    if not row.better:
        return "more" if row.difference > 0 else "fewer"
    return "better" if (row.difference > 0) == (row.better == "higher") else "worse"


def what_it_takes(row: Compared, detect: float, deviation: float | None) -> dict[str, Any]:
    """`needed` and `visible` of a row, by the part of what may be claimed falsely that it was given."""
    alpha = ALPHA * row.weight
    if row.share:
        changed = row.differing / row.questions
        # The least p of so many groups, all of which go one way.
        too_few = row.clusters is not None and 2 * 0.5**row.clusters >= alpha
        return {
            "needed": questions_needed(detect, changed, alpha),
            "visible": None if too_few else visible_difference(row.questions, changed, alpha),
        }
    return {"needed": needed_of_mean(detect, deviation, alpha)} if deviation else {}
