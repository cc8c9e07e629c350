"""evaluation/comparison.py: what is claimed of two systems, over hundreds of simulated evaluations."""

from __future__ import annotations

import numpy as np
import pytest

from neuralchat.data.records import Record, Turn
from neuralchat.evaluation import statistics
from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.comparison import NO_DIFFERENCE, Compared, Measured, compare_pairs, measures_for
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.loss import AnswerLoss
from neuralchat.evaluation.statistics import mcnemar

# Fewer draws than a user gets, so that hundreds of evaluations take seconds.
pytestmark = pytest.mark.usefixtures("few_draws")
WORDS = ["red", "green", "blue", "grey", "tall", "small", "old", "new", "soft", "loud"]


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "DRAWS", 400)
    monkeypatch.setattr(statistics, "FLIPS", 2000)


def items(count: int, cluster_size: int | None = None) -> list[Item]:
    """Questions whose answer is one word."""
    found = []
    for place in range(count):
        turns = (Turn("user", f"Question {place}?"), Turn("assistant", "yes it is"))
        cluster = None if cluster_size is None else str(place // cluster_size)
        record = Record(turns, f"row {place}", "Alpaca", ("yes",))
        found.append(Item(f"row {place}", turns[:1], "yes it is", ("yes",), record=record, cluster=cluster))
    return found


def system(name: str, right: np.ndarray, random: np.random.Generator, losses: np.ndarray) -> Measured:
    """Its other words, lengths and stops are chance."""
    answers = {}
    for place, is_right in enumerate(right.tolist()):
        words = random.choice(WORDS, size=int(random.integers(3, 9))).tolist()
        text = " ".join([*words, "yes" if is_right else "no"])
        answers[place] = Answered(text, len(words) + 1, bool(random.random() < 0.9))
    return Measured(name, answers, {place: AnswerLoss(float(loss), 10) for place, loss in enumerate(losses)})


def evaluation(
    random: np.random.Generator,
    asked: list[Item],
    *,
    lost: float,
    gained: float,
    easy: float = 0.6,
    measures: int | None = None,
) -> list[Compared]:
    """A base model that is right in `easy` of the questions, and one that differs from it by chance in so many."""
    n = len(asked)
    groups = [item.cluster or str(place) for place, item in enumerate(asked)]
    shared = {group: random.random() for group in groups}
    easiness = np.array([shared[group] for group in groups])
    before = easiness < easy
    change = {group: random.random() for group in groups}
    changes = np.array([change[group] for group in groups])
    after = np.where(before, changes >= lost / easy, changes < gained / (1 - easy))
    hard = random.gamma(2.0, 10.0, n)
    noises = {group: random.normal(0, 2.0) for group in shared}
    noise = np.array([noises[group] for group in groups])
    first = system("base", before, random, hard)
    second = system("run", after, random, hard + noise)
    return compare_pairs(asked, measures_for(asked)[:measures], [(first, second)])


@pytest.mark.slow
def test_what_does_not_matter_is_seldom_claimed() -> None:
    """Of 200 evaluations, over all their measures together, at most 5 % claim a difference where there is none."""
    random = np.random.default_rng(11)
    asked = items(100)
    rows = [evaluation(random, asked, lost=0.08, gained=0.08) for _ in range(200)]
    assert {row.measure for row in rows[0]} >= {"right", "loss", "rouge_l", "stopped", "tokens"}
    claimed = sum(any(row.says != NO_DIFFERENCE for row in found) for found in rows)
    # Seen with `pytest -s`, as the next one.
    print(f"a difference that does not matter was claimed in {claimed} of {len(rows)}")
    assert claimed <= 10
    # A test that never claims anything would pass as well.
    assert sum(row.p < 0.3 for found in rows for row in found) > 100


def test_words_interval_and_p_of_a_row_say_the_same() -> None:
    """Whatever is looked at beside it, and whether questions stand alone or in groups."""
    random = np.random.default_rng(14)
    rows = [
        row
        for size, cluster_size in ((1, None), (4, None), (40, None), (48, 4))
        for gained in (0.0, 0.15, 0.3)
        for _ in range(4)
        for row in evaluation(random, items(size, cluster_size), lost=0.02, gained=gained)
    ]
    for row in rows:
        low, high = row.interval
        assert (row.says != NO_DIFFERENCE) == (row.adjusted_p < 0.05) == (not low <= 0 <= high), row
        assert low <= row.difference <= high
        assert (row.p < 1 - row.confidence) == (row.adjusted_p < 0.05)
    assert {"better", NO_DIFFERENCE} <= {row.says for row in rows}


@pytest.mark.slow
def test_a_drop_of_ten_points_at_200_questions_is_found() -> None:
    """Where the adapter changes 18 % of the answers, most for the worse, in at least 80 % of 200 evaluations."""
    random = np.random.default_rng(12)
    asked = items(200)
    headlines = [evaluation(random, asked, lost=0.14, gained=0.04, measures=2)[0] for _ in range(200)]
    assert {row.measure for row in headlines} == {"right"}
    assert np.mean([row.difference for row in headlines]) == pytest.approx(-0.1, abs=0.01)
    found = sum(row.says == "worse" for row in headlines)
    print(f"a drop of ten points was found in {found} of {len(headlines)}")
    assert found >= 160
    assert not any(row.says == "better" for row in headlines)


def test_questions_of_a_document_that_go_together_are_not_taken_for_many() -> None:
    """All eight questions of a document change together: without clusters false claims were many times 5 %."""
    random = np.random.default_rng(13)
    asked = items(160, cluster_size=8)
    rows = [evaluation(random, asked, lost=0.2, gained=0.2, easy=0.5, measures=2) for _ in range(60)]
    assert rows[0][0].clusters == 20
    assert sum(found[0].says != NO_DIFFERENCE for found in rows) <= 6
    # The test for questions that stand alone would claim it in many.
    headlines = [found[0] for found in rows]
    assert sum(mcnemar(row.lost or 0, row.gained or 0) < 0.05 for row in headlines) > 15
