"""evaluation/power.py: what is said of how many questions it takes, beside simulated evaluations."""

from __future__ import annotations

import numpy as np
import pytest

from neuralchat.evaluation.power import chance_to_find, needed_of_mean, questions_needed, visible_difference
from neuralchat.evaluation.statistics import mcnemar, paired_share_test


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


def found_of(n: int, difference: float, changed: float, alpha: float) -> float:
    """Of 2,000 simulated evaluations, how many find it."""
    changes = [(changed - difference) / 2, (changed + difference) / 2, 1 - changed]
    drawn = np.random.default_rng(7).multinomial(n, changes, size=2000)
    p = {pair: paired_share_test(*pair, n).p for pair in {(down, up) for down, up, _ in drawn.tolist()}}
    return float(np.mean([p[down, up] < alpha for down, up, _ in drawn.tolist()]))


@pytest.mark.parametrize(("n", "changed"), [(7, 0.0), (12, 0.5), (45, 0.8), (200, 0.15), (300, 0.2), (1000, 0.02)])
def test_the_smallest_visible_difference_is_found_in_four_of_five(n: int, changed: float) -> None:
    size = visible_difference(n, changed, 0.04)
    assert size is not None
    assert 0.76 <= found_of(n, size, max(size, changed), 0.04) <= 0.86
    assert questions_needed(size, changed, 0.04) <= n


def test_so_few_questions_show_no_difference() -> None:
    """Five of five gained have p = 0.0625."""
    assert [visible_difference(n, 1.0) for n in range(1, 6)] == [None] * 5
    assert visible_difference(6, 0.0) is not None
    assert questions_needed(1.0, 0.0) == 6


@pytest.mark.parametrize(
    ("n", "difference", "changed"), [(9, 0.6, 0.7), (60, 0.2, 0.4), (150, 0.1, 0.1), (20, 1.0, 1.0)]
)
def test_the_chance_to_find_is_that_of_simulations(n: int, difference: float, changed: float) -> None:
    assert chance_to_find(n, difference, changed, 0.05) == pytest.approx(
        found_of(n, difference, changed, 0.05), abs=0.03
    )
