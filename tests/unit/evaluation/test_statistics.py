"""evaluation/statistics.py beside scipy and statsmodels, and what its claims are worth over many simulated evaluations.

The figures of the references were computed with scipy 1.17.1 and statsmodels 0.15.0, which are no dependencies; the
call that gave each stands beside it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from neuralchat.evaluation import statistics
from neuralchat.evaluation.statistics import (
    bootstrap,
    effective_number,
    holm,
    mcnemar,
    paired_share_test,
    paired_shares,
    sign_flip_test,
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


@pytest.mark.parametrize("alpha", [0.05, 0.04, 0.2, 0.00125])
def test_an_interval_is_without_zero_just_where_its_test_says_so(alpha: float) -> None:
    tests = [
        paired_share_test(down, up, total)
        for total in (1, 7, 30)
        for down in range(total + 1)
        for up in range(total + 1 - down)
    ]
    random = np.random.default_rng(2)
    for size in (1, 3, 12, 25):
        clusters = [place // 2 for place in range(size)]
        for mean in (0.0, 0.3, -0.6, 2.0):
            drawn, weights = random.normal(mean, 1, size), random.integers(1, 9, size)
            tests += [sign_flip_test(drawn, weights), sign_flip_test(drawn * weights, weights, clusters)]
    seen = [test.p < alpha for test in tests]
    assert seen == [not test.interval(alpha)[0] <= 0 <= test.interval(alpha)[1] for test in tests]
    assert {True, False} == set(seen)


def test_the_test_of_paired_shares_is_no_laxer_than_either_of_its_two() -> None:
    # Exact McNemar as below; the interval of Bonett and Price ends at zero where p is that of its normal deviate.
    assert paired_share_test(0, 5, 5).p == mcnemar(0, 5) == 0.0625
    assert paired_shares(0, 5, 5).low > 0.19
    assert paired_share_test(0, 5, 5).interval(0.05) == (0, 1)
    test = paired_share_test(0, 20, 200)
    assert test.p > mcnemar(0, 20)
    assert paired_shares(0, 20, 200, 1 - test.p).low == pytest.approx(0, abs=1e-6)
    assert paired_share_test(3, 12, 45).interval(0.05) == paired_shares(3, 12, 45)


def test_intervals_by_sign_flips_hold_what_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean, of samples of normal numbers and of skewed ones, in about nine of ten of such intervals; of very skewed
    ones in fewer, as the docs say.
    """
    monkeypatch.setattr(statistics, "FLIPS", 1000)
    random = np.random.default_rng(8)
    for draw, mean in ((lambda: random.normal(0.3, 1, 30), 0.3), (lambda: random.gamma(2.0, 0.5, 30) - 0.7, 0.3)):
        intervals = [sign_flip_test(draw(), np.ones(30)).interval(0.1) for _ in range(300)]
        held = np.mean([low <= mean <= high for low, high in intervals])
        assert 0.86 <= held <= 0.945
    # Of 95 %, 82 are left where nearly all say zero and the others far from it on one side: that is not symmetric.
    sparse = [
        sign_flip_test(np.where(random.random(60) < 0.1, random.exponential(1.0, 60), 0.0), np.ones(60)).interval(0.05)
        for _ in range(300)
    ]
    held = np.mean([low <= 0.1 <= high for low, high in sparse])
    assert 0.77 <= held <= 0.87


def test_an_interval_by_sign_flips_is_about_that_of_student() -> None:
    # scipy.stats.t.interval(0.95, 24, numpy.mean(DIFFERENCES), scipy.stats.sem(DIFFERENCES))
    low, high = sign_flip_test(DIFFERENCES, np.ones(25)).interval(0.05)
    assert (low, high) == pytest.approx((-0.0002, 0.9904), abs=0.04)
    # Two questions can never show it, and two that say the same are no certainty.
    assert sign_flip_test([1.0, 1.0], [1, 1]).interval(0.05) == (-math.inf, math.inf)


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
        # By the normal distribution, with the correction for continuity: no comparison takes long.
        (9800, 10200, math.erfc((400 - 1) / math.sqrt(2 * 20000))),
    ],
)
def test_exact_mcnemar(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == pytest.approx(p, rel=1e-9 if lost + gained < 1000 else 1e-3)


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
    # Sums of uneven groups differ by rounding.
    random = np.random.default_rng(1)
    for _ in range(20):
        groups = random.integers(0, 9, 40).tolist()
        assert bootstrap([0.3] * 40, [1] * 40, groups) == pytest.approx((0.3, 0.3), abs=1e-12)
    # Small numbers are not alike.
    low, high = bootstrap([1e-12, 3e-12, 5e-12], [1, 1, 1])
    assert low < high


def test_sign_flips() -> None:
    # scipy.stats.permutation_test((DIFFERENCES,), numpy.mean, permutation_type="samples", n_resamples=200000).pvalue
    assert sign_flip_test(DIFFERENCES, np.ones(25)).p == pytest.approx(0.0484, abs=0.004)
    # The same of the first ten, exact: n_resamples=inf.
    assert sign_flip_test(DIFFERENCES[:10], np.ones(10)).p == pytest.approx(0.158203125, abs=0.008)
    assert sign_flip_test([0.0, 0.0], [1, 1]).p == 1.0


def test_the_same_answers_give_the_same_figures() -> None:
    assert bootstrap(VALUES, WEIGHTS) == bootstrap(VALUES, WEIGHTS)
    first, second = (sign_flip_test(DIFFERENCES, np.ones(25)) for _ in range(2))
    assert (first.p, first.interval(0.05)) == (second.p, second.interval(0.05))


def raised(p_values: list[float], weights: list[float]) -> list[float]:
    return [found.p for found in holm(p_values, weights)]


def test_holm() -> None:
    # statsmodels.stats.multitest.multipletests(p, method="holm")
    p = [0.01, 0.04, 0.03, 0.005, 0.5]
    assert raised(p, [1] * 5) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert raised(p, [0.2] * 5) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])


def test_holm_gives_the_weighty_one_more() -> None:
    assert raised([0.03, 0.03], [0.8, 0.2]) == pytest.approx([0.0375, 0.0375])
    # By its own share 0.03 is too much.
    assert raised([0.2, 0.03], [0.8, 0.2]) == pytest.approx([0.2, 0.15])


def test_one_test_is_not_changed_by_holm() -> None:
    assert holm([0.03], [0.8]) == [(pytest.approx(0.03), pytest.approx(0.05))]


def test_each_test_is_held_against_its_alpha() -> None:
    random = np.random.default_rng(4)
    for _ in range(300):
        count = int(random.integers(1, 8))
        p, weights = (random.random(count) ** 4).tolist(), random.random(count).tolist()
        for one, found in zip(p, holm(p, weights), strict=True):
            assert (one < found.alpha) == (found.p < 0.05)
    # Of five, the first two are claimed and leave their parts to the others.
    assert [found.alpha for found in holm([0.01, 0.04, 0.03, 0.005, 0.5], [1] * 5)] == pytest.approx(
        [0.05 / 4, 0.05 / 3, 0.05 / 3, 0.05 / 5, 0.05 / 3]
    )


def test_clusters_that_say_the_same_count_once() -> None:
    """Ten documents of eight questions each, which are all right or all wrong: as ten questions, not as eighty."""
    values = [float(document % 2) for document in range(10) for _ in range(8)]
    documents = [document for document in range(10) for _ in range(8)]
    assert effective_number(values, documents) == pytest.approx(10)
    assert effective_number(values, None) == 80
    differences = [(1.0 if document < 8 else -1.0) for document in documents]
    # scipy.stats.binomtest(2, 10).pvalue
    assert sign_flip_test(differences, np.ones(80), documents).p == pytest.approx(0.109375, abs=0.01)
    assert sign_flip_test(differences, np.ones(80)).p < 0.001
    apart, together = bootstrap(differences, [1] * 80), bootstrap(differences, [1] * 80, documents)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_clusters_of_one_are_no_clusters() -> None:
    numbers = list(range(len(VALUES)))
    assert bootstrap(VALUES, WEIGHTS, numbers) == bootstrap(VALUES, WEIGHTS)
    ones = np.ones(25)
    assert sign_flip_test(DIFFERENCES, ones, numbers[:25]).p == sign_flip_test(DIFFERENCES, ones).p
