"""evaluation/statistics.py beside scipy and statsmodels, and what its claims are worth over many simulated evaluations.

The figures of the references were computed with scipy 1.17.1 and statsmodels 0.15.0, which are no dependencies; the
call that gave each stands beside it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

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

# numpy.random.default_rng(3): gamma(2, 1.5, 40), integers(3, 30, 40) and normal(0.3, 1, 25), rounded.
VALUES = [
    8.901, 3.4, 1.722, 0.274, 1.171, 2.963, 1.994, 0.963, 3.554, 4.851, 2.547, 3.711, 2.162, 8.431, 2.057, 1.146, 4.628,
    2.681, 1.064, 3.074, 1.734, 2.551, 6.329, 2.894, 2.123, 3.81, 2.107, 2.971, 4.089, 0.48, 1.059, 4.141, 0.217, 3.191,
    7.019, 3.251, 6.331, 1.846, 7.376, 4.262,
]  # fmt: skip
WEIGHTS = [
    23, 17, 28, 22, 25, 4, 10, 21, 20, 12, 7, 18, 5, 21, 24, 21, 4, 17, 11, 17, 21, 8, 3, 16, 19, 6, 27, 15, 29, 17, 22,
    23, 16, 13, 21, 3, 19, 17, 7, 8,
]  # fmt: skip
DIFFERENCES = [
    -0.494, 0.434, 0.189, 0.843, 0.525, 2.85, 1.799, 1.797, -1.74, -0.04, -0.309, 0.833, -1.979, 1.474, 1.367, -1.002,
    -0.679, -0.501, 0.343, 0.941, 2.348, 0.103, 1.068, 0.455, 2.06,
]  # fmt: skip


@pytest.mark.parametrize(
    ("p", "low", "high", "seen"),
    [
        (0.04, 0.1, 0.3, True), (0.04, -0.3, -0.1, True), (0.04, -0.1, 0.3, False), (0.04, 0.0, 0.3, False),
        (0.05, 0.1, 0.3, False), (0.06, 0.1, 0.3, False),
    ],
)  # fmt: skip
def test_a_difference_is_seen_where_test_and_interval_agree(p: float, low: float, high: float, seen: bool) -> None:
    assert is_seen(p, Interval(low, high)) is seen


@pytest.mark.parametrize(
    ("right", "total", "confidence", "low", "high"),
    [
        # statsmodels.stats.proportion.proportion_confint(right, total, method="wilson")
        (0, 10, 0.95, 0.0, 0.277532799863),
        (37, 45, 0.95, 0.686701753735, 0.907056104859),
        (45, 45, 0.95, 0.921348401267, 1.0),
        (1, 3, 0.95, 0.06149194472, 0.792340399198),
        (120, 286, 0.95, 0.363823439428, 0.477469106549),
        (1, 1, 0.95, 0.206549314377, 1.0),
        # scipy.stats.binomtest(right, total).proportion_ci(0.99, "wilson")
        (37, 45, 0.99, 0.6376500972, 0.923985577682),
        (120, 286, 0.99, 0.347073900508, 0.495733637027),
    ],
)
def test_wilson(right: int, total: int, confidence: float, low: float, high: float) -> None:
    assert wilson(right, total, confidence) == pytest.approx((low, high), abs=1e-11)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        # statsmodels.stats.contingency_tables.mcnemar([[0, lost], [gained, 0]], exact=True).pvalue
        (0, 37, 1.4551915228366852e-11),
        (3, 12, 0.03515625),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (1, 2, 1.0),
        (40, 21, 0.0204147137996349),
        (0, 1, 1.0),
        (120, 160, 0.019606727290281328),
    ],
)
def test_exact_mcnemar(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == pytest.approx(p, rel=1e-9)


def test_interval_of_paired_shares_holds_what_is_so() -> None:
    """Of 2,000 simulated evaluations it holds the true difference in about 95 %; in more where little changes."""
    random = np.random.default_rng(5)
    for lost, gained, n in ((0.1, 0.2, 60), (0.02, 0.02, 100), (0.3, 0.3, 30), (0.05, 0.5, 45)):
        drawn = random.multinomial(n, [lost, gained, 1 - lost - gained], size=2000)
        intervals = [paired_shares(down, up, n) for down, up, _ in drawn.tolist()]
        held = np.mean([low <= gained - lost <= high for low, high in intervals])
        assert 0.935 <= held <= (0.98 if lost + gained > 0.1 else 1.0), (lost, gained, n)


def test_bootstrap_of_a_ratio() -> None:
    # scipy.stats.bootstrap((VALUES, WEIGHTS), ratio of sums, paired=True, method="BCa", n_resamples=200000)
    low, high = bootstrap(VALUES, WEIGHTS)
    assert low == pytest.approx(0.15546, abs=0.003)
    assert high == pytest.approx(0.26464, abs=0.004)


def test_bootstrap_of_a_mean() -> None:
    # scipy.stats.bootstrap((DIFFERENCES,), numpy.mean, method="BCa", n_resamples=200000)
    low, high = bootstrap(DIFFERENCES, [1] * len(DIFFERENCES))
    assert low == pytest.approx(0.0307, abs=0.02)
    assert high == pytest.approx(0.9595, abs=0.02)


def test_bootstrap_of_what_does_not_vary() -> None:
    assert bootstrap([0.5, 0.5, 0.5], [1, 1, 1]) == (0.5, 0.5)
    assert bootstrap([0.5], [1]) == (-math.inf, math.inf)


def test_sign_flips() -> None:
    # scipy.stats.permutation_test((DIFFERENCES,), numpy.mean, permutation_type="samples", n_resamples=200000).pvalue
    assert sign_flips(DIFFERENCES) == pytest.approx(0.0484, abs=0.004)
    # The same of the first ten, exact: n_resamples=inf.
    assert sign_flips(DIFFERENCES[:10]) == pytest.approx(0.158203125, abs=0.008)
    assert sign_flips([0.0, 0.0]) == 1.0


def test_the_same_answers_give_the_same_figures() -> None:
    assert bootstrap(VALUES, WEIGHTS) == bootstrap(VALUES, WEIGHTS)
    assert sign_flips(DIFFERENCES) == sign_flips(DIFFERENCES)


def test_holm() -> None:
    # statsmodels.stats.multitest.multipletests(p, method="holm")
    p = [0.01, 0.04, 0.03, 0.005, 0.5]
    assert holm(p, [1] * 5) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert holm(p, [0.2] * 5) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])


def test_holm_gives_the_weighty_one_more() -> None:
    assert holm([0.03, 0.03], [0.8, 0.2]) == pytest.approx([0.0375, 0.0375])
    # By its own share 0.03 is too much.
    assert holm([0.2, 0.03], [0.8, 0.2]) == pytest.approx([0.2, 0.15])


def test_one_test_is_not_changed_by_holm() -> None:
    assert holm([0.03], [0.8]) == pytest.approx([0.03])


@pytest.mark.parametrize(("lost", "gained"), [(0.04, 0.14), (0.0, 0.1), (0.1, 0.3)])
def test_as_many_questions_as_are_needed_find_it(lost: float, gained: float) -> None:
    """The formula is for a test that is not exact, so that a few points less may be found."""
    n = questions_needed(gained - lost, lost + gained)
    drawn = np.random.default_rng(7).multinomial(n, [lost, gained, 1 - lost - gained], size=2000)
    p = {pair: mcnemar(*pair) for pair in {(down, up) for down, up, _ in drawn.tolist()}}
    found = np.mean([p[down, up] < 0.05 for down, up, _ in drawn.tolist()])
    assert 0.68 <= found <= 0.88, n


def test_needed_questions_of_a_mean() -> None:
    # statsmodels.stats.power.TTestPower().solve_power(0.25, power=0.8, alpha=0.05) is 127.5, of a t-test.
    assert needed_of_mean(0.25, 1.0) == 126


def test_the_smallest_visible_difference_needs_no_more_questions_than_there_are() -> None:
    for n, changed in ((45, 0.8), (200, 0.15), (1000, 0.02)):
        size = visible_difference(n, changed)
        assert questions_needed(size, changed) <= n < questions_needed(size - 0.001, changed)
    assert visible_difference(2, 0.5) == 1.0


def test_clusters_that_say_the_same_count_once() -> None:
    """Ten documents of eight questions each, which are all right or all wrong: as ten questions, not as eighty."""
    values = [float(document % 2) for document in range(10) for _ in range(8)]
    documents = [document for document in range(10) for _ in range(8)]
    assert effective_number(values, documents) == pytest.approx(10)
    assert effective_number(values, None) == 80
    differences = [(1.0 if document < 8 else -1.0) for document in documents]
    # scipy.stats.binomtest(2, 10).pvalue
    assert sign_flips(differences, documents) == pytest.approx(0.109375, abs=0.01)
    assert sign_flips(differences) < 0.001
    apart, together = bootstrap(differences, [1] * 80), bootstrap(differences, [1] * 80, documents)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_clusters_of_one_are_no_clusters() -> None:
    numbers = list(range(len(VALUES)))
    assert bootstrap(VALUES, WEIGHTS, numbers) == bootstrap(VALUES, WEIGHTS)
    assert sign_flips(DIFFERENCES, numbers[:25]) == sign_flips(DIFFERENCES)
