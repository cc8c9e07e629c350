"""How sure a difference between two systems is, both asked the same questions: tests and the intervals of them.

Everything is paired: question by question, or, where questions belong together, cluster by cluster. What is drawn is
seeded, so that the same answers give the same figures. A difference is of the second system minus the first.

Shapes: n questions, c clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
# Of a test: how often a difference is claimed where there is none.
ALPHA = 0.05
DRAWS = 5000
# More, since the smallest p-value is one of so many, and is to count among many tests.
FLIPS = 20000
# Of the largest: sums of the same numbers in another order differ by less.
ROUNDING_OF_SUMS = 1e-9
# Of draws: memory follows it.
DRAWS_AT_ONCE = 500
SEED = 20260101


class Interval(NamedTuple):
    low: float
    high: float


class Tested(NamedTuple):
    """A test of no difference. `interval(alpha)`: that of 1 - alpha, without zero just where p < alpha."""

    p: float
    interval: Callable[[float], Interval]


class Corrected(NamedTuple):
    """One of several tests: its raised p-value, and the alpha it was held against; p < alpha just where the raised one
    is below ALPHA.
    """

    p: float
    alpha: float


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
    # In whole numbers: of changed over k, each from the one before.
    term = tail = 1
    for k in range(min(lost, gained)):
        term = term * (changed - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**changed)


def paired_shares(lost: int, gained: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Of the difference of two shares of the same questions: Bonett and Price (2012), the adjusted Wald interval."""
    middle, error = adjusted_difference(lost, gained, total)
    half = quantile((1 + confidence) / 2) * error
    return Interval(max(-1.0, middle - half), min(1.0, middle + half))


def adjusted_difference(lost: int, gained: int, total: int) -> tuple[float, float]:
    """The difference of two shares of the same questions and its standard error, of one question more in each way."""
    down, up = (lost + 1) / (total + 2), (gained + 1) / (total + 2)
    return up - down, math.sqrt((down + up - (up - down) ** 2) / (total + 2))


def paired_share_test(lost: int, gained: int, total: int) -> Tested:
    """Of the difference of two shares of the same questions, by two ways that must agree: McNemar's exact test and the
    interval of Bonett and Price. p is the larger of theirs, and the interval reaches zero where the exact test does not
    rule it out: either way a wider one, which holds the difference as often at least.
    """
    exact = mcnemar(lost, gained)
    middle, error = adjusted_difference(lost, gained, total)

    def interval(alpha: float) -> Interval:
        low, high = paired_shares(lost, gained, total, 1 - alpha)
        return Interval(low, high) if exact < alpha else Interval(min(low, 0.0), max(high, 0.0))

    return Tested(max(exact, math.erfc(abs(middle) / error / math.sqrt(2))), interval)


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
    if np.ptp(apart) <= ROUNDING_OF_SUMS * abs(sums[:, 0]).max():
        return Interval(float(found), float(found))
    random = np.random.default_rng(SEED)
    drawn = np.concatenate(
        [draws(sums, random, min(DRAWS_AT_ONCE, DRAWS - start)) for start in range(0, DRAWS, DRAWS_AT_ONCE)]
    )
    left_out = (total - sums[:, 0]) / (weight - sums[:, 1])
    skew = left_out.mean() - left_out
    spread = (skew**2).sum()
    acceleration = (skew**3).sum() / (6 * spread**1.5) if spread else 0.0
    below = ((drawn < found).mean() + (drawn <= found).mean()) / 2
    bias = quantile(float(np.clip(below, 1 / DRAWS, 1 - 1 / DRAWS)))

    def corrected(probability: float) -> float:
        z = bias + quantile(probability)
        return NormalDist().cdf(bias + z / (1 - acceleration * z))

    low, high = np.quantile(drawn, [corrected((1 + sign * confidence) / 2) for sign in (-1, 1)])
    return Interval(float(low), float(high))


def interval_of(
    values: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None,
    *,
    share: bool,
) -> Interval:
    """Of sum(values) / sum(weights), both [n], at 95 %: Wilson's for a `share`, whose values are 0 or 1 and whose
    weights are 1, else by the bootstrap.
    """
    if not share:
        return bootstrap(values, weights, clusters)
    number = effective_number(values, clusters)
    return wilson(float(np.mean(values)) * number, number)


def draws(sums: np.ndarray, random: np.random.Generator, count: int) -> np.ndarray:
    """sums: [c, 2], numerators and denominators. The ratio of `count` samples of c of them, [count]."""
    chosen = random.integers(len(sums), size=(count, len(sums)), dtype=np.int32)
    return sums[:, 0][chosen].sum(axis=1) / sums[:, 1][chosen].sum(axis=1)


def sign_flip_test(
    differences: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
) -> Tested:
    """Of sum(differences) / sum(weights), both [n], where each question (or each cluster's sum) was as likely to be
    as far on the other side: Fisher's randomisation test by draws, what was found counting as one of them.

    Its interval holds every difference that this test does not rule out (J. A. Hartigan, Using Subsample Values as
    Typical Values, 1969): some questions are flipped, and a difference between the ratio of those and that of the
    others is reached. So few that none can be ruled out have one without ends. The interval takes what questions say
    for symmetric about the difference: where nearly all say zero and the others far from it on one side, it holds what
    is so less often (84 % in the place of 95 %, of 60 questions of which one in ten says anything). The test of no
    difference takes only that for symmetric which is so where there is none.
    """
    sums = cluster_sums(np.column_stack([differences, weights]).astype(float), clusters)
    random = np.random.default_rng(SEED)
    ends = np.concatenate(
        [split_ratios(sums, random, min(DRAWS_AT_ONCE, FLIPS - start)) for start in range(0, FLIPS, DRAWS_AT_ONCE)]
    )
    lows, highs = np.sort(ends[:, 0]), np.sort(-ends[:, 1])
    found = sums[:, 0].sum()
    reached = (lows if found > 0 else highs) <= 0
    p = 1.0 if not found else (int(reached.sum()) + 1) / (FLIPS + 1)

    def interval(alpha: float) -> Interval:
        # As many must reach a difference for it to stay.
        least = math.ceil(alpha * (FLIPS + 1)) - 1
        if least < 1:
            return Interval(-math.inf, math.inf)
        return Interval(float(lows[least - 1]), -float(highs[least - 1]))

    return Tested(p, interval)


def split_ratios(sums: np.ndarray, random: np.random.Generator, count: int) -> np.ndarray:
    """sums: [c, 2], numerators and denominators. Of `count` random splits of c in two the lower and the higher ratio,
    [count, 2]; without an end where all are on one side.
    """
    chosen = random.integers(0, 2, size=(count, len(sums)), dtype=np.int8)
    one = chosen.astype(float) @ sums
    sides = np.stack([one, sums.sum(axis=0) - one])
    # Sums of the same numbers in another order.
    sides[abs(sides) < ROUNDING_OF_SUMS * abs(sums).sum(axis=0)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sides[..., 0] / sides[..., 1]
    ratios[:, (sides[..., 1] == 0).any(axis=0)] = [[-np.inf], [np.inf]]
    return np.sort(ratios, axis=0).T


def holm(p_values: Sequence[float], weights: Sequence[float]) -> list[Corrected]:
    """Several tests, so corrected that all of them together claim falsely with the chance of one.

    S. Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979), with weights: how much of that chance each
    is given. What is claimed leaves its part to the others.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i] / weights[i])
    left, reached, found = float(sum(weights)), 0.0, [Corrected(1.0, ALPHA)] * len(p_values)
    among = left
    for index in order:
        if reached < ALPHA:
            among = left
        reached = max(reached, p_values[index] / weights[index] * left)
        found[index] = Corrected(min(1.0, reached), ALPHA * weights[index] / among)
        left -= weights[index]
    return found


def effective_number(values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None) -> float:
    """How many independent questions would say as much of their mean: n / design effect of the clusters, at most n."""
    n = len(values)
    if clusters is None:
        return float(n)
    apart = np.asarray(values, dtype=float) - np.mean(values)
    alone, together = (apart**2).sum(), (cluster_sums(apart, clusters) ** 2).sum()
    return float(min(n, n * alone / together)) if alone > 0 and together > 0 else float(len(set(clusters)))
