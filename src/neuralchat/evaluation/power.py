"""How many questions show a difference of a given size, and how small a one so many show.

Two systems are asked the same questions; a share `changed` of them is right in one system only.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache

import numpy as np

from neuralchat.evaluation.statistics import ALPHA, paired_share_test, quantile

# How often a difference that is there is to be found.
POWER = 0.8
# Of so many questions the chance to find one is counted; above, the formula is as good.
COUNTED_QUESTIONS = 200


def questions_needed(difference: float, changed: float, alpha: float = ALPHA) -> int:
    """How many questions a difference of two shares needs to be found with POWER.

    R. J. Connor, Sample Size for Testing Differences in Proportions for the Paired-Sample Design (1987); of few
    questions counted, since the test is exact. `changed` is at least the difference.
    """
    size = abs(difference)
    changed = min(1.0, max(changed, size))
    root = quantile(1 - alpha / 2) * math.sqrt(changed) + quantile(POWER) * math.sqrt(changed - size * size)
    needed = math.ceil((root / size) ** 2)
    while needed <= COUNTED_QUESTIONS and chance_to_find(needed, size, changed, alpha) < POWER:
        needed += 1
    return needed


def needed_of_mean(difference: float, deviation: float, alpha: float = ALPHA) -> int:
    """The same for a mean whose differences have this standard deviation."""
    return math.ceil(((quantile(1 - alpha / 2) + quantile(POWER)) * deviation / difference) ** 2)


def visible_difference(questions: int, changed: float, alpha: float = ALPHA) -> float | None:
    """The smallest difference of two shares that so many questions find with POWER, to a tenth of a point; None where
    they are too few for any.
    """

    def shows(step: int) -> bool:
        size = step / 1000
        if questions <= COUNTED_QUESTIONS:
            return chance_to_find(questions, size, max(changed, size), alpha) >= POWER
        return questions_needed(size, changed, alpha) <= questions

    place = bisect_left(range(1, 1001), True, key=shows)
    return None if place == 1000 else (place + 1) / 1000


def chance_to_find(questions: int, difference: float, changed: float, alpha: float) -> float:
    """The chance that the test of paired shares finds it, from 0 to 1."""
    claimed, orders = claimed_counts(questions, alpha)
    up, down = (changed + difference) / 2, max(0.0, (changed - difference) / 2)
    lost, gained = np.ogrid[: questions + 1, : questions + 1]
    same = np.maximum(questions - lost - gained, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [
            np.where(count > 0, count * np.log(p), 0.0)
            for count, p in ((lost, down), (gained, up), (same, max(0.0, 1 - changed)))
        ]
    return float(np.exp(orders + sum(logs))[claimed].sum())


@lru_cache(maxsize=8)
def claimed_counts(questions: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """By how many were lost and gained, both [questions + 1, questions + 1]: whether a difference is claimed, and the
    logarithm of the number of orders that they can come in.
    """
    claimed = np.zeros((questions + 1, questions + 1), dtype=bool)
    few = 0
    for changed in range(questions + 1):
        # The fewer go the other way, the likelier it is claimed; what is claimed stays so where more go one way.
        while few <= changed // 2 and paired_share_test(few, changed - few, questions).p < alpha:
            few += 1
        for down in range(few):
            claimed[down, changed - down] = claimed[changed - down, down] = True
    logs = np.array([math.lgamma(count + 1) for count in range(questions + 1)])
    lost, gained = np.ogrid[: questions + 1, : questions + 1]
    same = questions - lost - gained
    orders = np.where(same >= 0, logs[-1] - logs[lost] - logs[gained] - logs[np.maximum(same, 0)], -np.inf)
    return claimed, orders
