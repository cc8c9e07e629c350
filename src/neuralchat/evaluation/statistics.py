"""How sure a difference between two systems is, both asked the same questions: intervals, tests, and what it takes.

Everything is paired: question by question, or, where questions belong together, cluster by cluster. What is drawn is
seeded, so that the same answers give the same figures. A difference is of the second system minus the first.

Shapes: n questions, c clusters.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
# Of a test: how often a difference is claimed where there is none; how often one that is there is to be found.
ALPHA, POWER = 0.05, 0.8
DRAWS = 5000
# More, since the smallest p-value is one of so many, and is to count among many tests.
FLIPS = 20000
# Of draws: memory follows it.
DRAWS_AT_ONCE = 500
SEED = 20260101


class Interval(NamedTuple):
    low: float
    high: float


def quantile(probability: float) -> float:
    """Of the standard normal distribution."""
    return NormalDist().inv_cdf(probability)


def wilson(right: float, total: float, confidence: float = CONFIDENCE) -> Interval:
    """The interval of Wilson (1927) for a share of `total`, which may be an effective number."""
    z = quantile((1 + confidence) / 2)
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def mcnemar(lost: int, gained: int) -> float:
    """The exact p-value, two-sided, of `lost` against `gained` where each was as likely as the other."""
    changed = lost + gained
    tail = sum(math.comb(changed, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / 2**changed)


def paired_shares(lost: int, gained: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Of the difference of two shares of the same questions: Bonett and Price (2012), the adjusted Wald interval."""
    z = quantile((1 + confidence) / 2)
    down, up = (lost + 1) / (total + 2), (gained + 1) / (total + 2)
    half = z * math.sqrt((down + up - (up - down) ** 2) / (total + 2))
    return Interval(max(-1.0, up - down - half), min(1.0, up - down + half))


def is_seen(p: float, interval: Interval) -> bool:
    """Whether a difference can be claimed, of its p-value and its interval: made in two ways, they may disagree at the
    border, and it takes both.
    """
    return p < ALPHA and not interval.low <= 0 <= interval.high


def cluster_sums(values: np.ndarray, clusters: Sequence[Hashable] | None) -> np.ndarray:
    """values: [n] or [n, k]. Their sums in each cluster, [c] or [c, k]; as they are where nothing belongs together."""
    if clusters is None:
        return values
    places = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(places), *values.shape[1:]))
    np.add.at(sums, [places[cluster] for cluster in clusters], values)
    return sums


def bootstrap(
    values: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Of sum(values) / sum(weights), questions or whole clusters drawn with replacement; values, weights: [n].

    Bias-corrected and accelerated: B. Efron, Better Bootstrap Confidence Intervals (1987).
    """
    sums = cluster_sums(np.column_stack([values, weights]).astype(float), clusters)
    count, (total, weight) = len(sums), sums.sum(axis=0)
    found = total / weight
    if count < 2:
        # One says nothing of others.
        return Interval(-math.inf, math.inf)
    # What each adds to the numerator beyond its share.
    apart = sums[:, 0] - found * sums[:, 1]
    if np.ptp(apart) == 0:
        return Interval(float(found), float(found))
    random = np.random.default_rng(SEED)
    drawn = np.concatenate(
        [draws(sums, random, min(DRAWS_AT_ONCE, DRAWS - start)) for start in range(0, DRAWS, DRAWS_AT_ONCE)]
    )
    left_out = (total - sums[:, 0]) / (weight - sums[:, 1])
    skew = left_out.mean() - left_out
    acceleration = (skew**3).sum() / (6 * (skew**2).sum() ** 1.5)
    below = ((drawn < found).mean() + (drawn <= found).mean()) / 2
    bias = quantile(float(np.clip(below, 1 / DRAWS, 1 - 1 / DRAWS)))

    def corrected(probability: float) -> float:
        z = bias + quantile(probability)
        return NormalDist().cdf(bias + z / (1 - acceleration * z))

    low, high = np.quantile(drawn, [corrected((1 + sign * confidence) / 2) for sign in (-1, 1)])
    return Interval(float(low), float(high))


def draws(sums: np.ndarray, random: np.random.Generator, count: int) -> np.ndarray:
    """sums: [c, 2], numerators and denominators. The ratio of `count` samples of c of them, [count]."""
    chosen = random.integers(len(sums), size=(count, len(sums)), dtype=np.int32)
    return sums[:, 0][chosen].sum(axis=1) / sums[:, 1][chosen].sum(axis=1)


def sign_flips(differences: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None = None) -> float:
    """The p-value, two-sided, of their sum where each (or each cluster's sum) was as likely with the other sign.

    Fisher's randomisation test by draws; what was found counts as one of them.
    """
    sums = cluster_sums(np.asarray(differences, dtype=float), clusters)
    sums = sums[sums != 0]
    found = abs(sums.sum())
    if not len(sums) or found == 0:
        return 1.0
    random = np.random.default_rng(SEED)
    reached = 0
    for start in range(0, FLIPS, DRAWS_AT_ONCE):
        flipped = random.integers(0, 2, size=(min(DRAWS_AT_ONCE, FLIPS - start), len(sums)), dtype=np.int8)
        # The sum with some of them flipped is the whole less twice those.
        reached += int((abs(sums.sum() - 2 * (flipped.astype(float) @ sums)) >= found * (1 - 1e-9)).sum())
    return (reached + 1) / (FLIPS + 1)


def holm(p_values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """p-values of several tests, so raised that all of them together claim falsely with the chance of one.

    S. Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979), with weights: how much of that chance each
    is given.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i] / weights[i])
    left, reached, raised = float(sum(weights)), 0.0, [1.0] * len(p_values)
    for index in order:
        reached = max(reached, p_values[index] / weights[index] * left)
        raised[index] = min(1.0, reached)
        left -= weights[index]
    return raised


def questions_needed(difference: float, changed: float) -> int:
    """How many questions a difference of two shares needs to be found with POWER, where a share `changed` of them is
    right in one system only: R. J. Connor, Sample Size for Testing Differences in Proportions for the Paired-Sample
    Design (1987).
    """
    size = abs(difference)
    changed = min(1.0, max(changed, size))
    root = quantile(1 - ALPHA / 2) * math.sqrt(changed) + quantile(POWER) * math.sqrt(changed - size * size)
    return math.ceil((root / size) ** 2)


def needed_of_mean(difference: float, deviation: float) -> int:
    """The same for a mean whose differences have this standard deviation."""
    return math.ceil(((quantile(1 - ALPHA / 2) + quantile(POWER)) * deviation / difference) ** 2)


def visible_difference(questions: int, changed: float) -> float:
    """The smallest difference of two shares that so many questions find with POWER, to a tenth of a point."""
    place = bisect_left(range(1, 1000), True, key=lambda step: questions_needed(step / 1000, changed) <= questions)
    return (place + 1) / 1000


def effective_number(values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None) -> float:
    """How many independent questions would say as much of their mean: n / design effect of the clusters, at most n."""
    n = len(values)
    if clusters is None:
        return float(n)
    apart = np.asarray(values, dtype=float) - np.mean(values)
    alone, together = (apart**2).sum(), (cluster_sums(apart, clusters) ** 2).sum()
    return float(min(n, n * alone / together)) if alone > 0 and together > 0 else float(len(set(clusters)))
