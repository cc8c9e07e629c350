"""evaluation/telling/terminal_tables.py: what is said of how little can be seen, and that words and figures agree."""

from __future__ import annotations

import pytest

from neuralchat.data.records import Turn
from neuralchat.evaluation.answers import Answered
from neuralchat.evaluation.comparison import Compared, Measured, compare_pairs, measures_for
from neuralchat.evaluation.items import Item
from neuralchat.evaluation.statistics import paired_shares
from neuralchat.evaluation.telling.terminal_tables import comparison_page, strength


def rows_of(total: int, lost: int, gained: int, *, alone: bool = False, groups: int | None = None) -> list[Compared]:
    """Of questions that have facts; the others are wrong before and after."""
    items = [
        Item(f"row {n}", (Turn("user", "?"),), facts=("yes",), cluster=str(n % groups) if groups else None)
        for n in range(total)
    ]
    before = {n: Answered("yes" if n < lost else "no", 1, True) for n in range(total)}
    after = {n: Answered("yes" if lost <= n < lost + gained else "no", 1, True) for n in range(total)}
    measures = measures_for(items)[: 1 if alone else None]
    return compare_pairs(items, measures, [(Measured("base", before), Measured("run", after))], detect=0.05)


FEW = ". {} questions are few: every figure is uncertain"
FOUND = "found in 4 of 5 such evaluations, a smaller one less often. To find one of 5 points as often takes"


@pytest.mark.parametrize(
    ("total", "lost", "gained", "told"),
    [
        (7, 0, 0, "right answers: the two differ at none of 7 questions. Where two systems differ at more, a "
         f"real difference of 88.1 points or more is {FOUND} at least 166 questions" + FEW.format(7)),
        (5, 0, 5, "right answers: the two differ at 5 of 5 questions. So few questions cannot show any difference. "
         "To find one of 5 points in 4 of 5 such evaluations takes about 3,351 questions" + FEW.format(5)),
        (45, 45, 0, "right answers: the two differ at 45 of 45 questions. Where two systems differ at about as many, "
         f"a real difference of 42.4 points or more is {FOUND} about 3,351 questions"),
        # By hand: (2.0537 * sqrt(0.18) + 0.8416 * sqrt(0.18 - 0.0025))^2 / 0.0025 = 601.1.
        (200, 8, 28, "right answers: the two differ at 36 of 200 questions. Where two systems differ at about "
         f"as many, a real difference of 9 points or more is {FOUND} about 602 questions"),
        (1000, 1, 2, "right answers: the two differ at 3 of 1000 questions. Where two systems differ at more, a "
         f"real difference of 0.9 points or more is {FOUND} at least 166 questions"),
    ],
)  # fmt: skip
def test_what_so_many_questions_can_show(total: int, lost: int, gained: int, told: str) -> None:
    assert strength(rows_of(total, lost, gained)[0], 0.05) == told


def test_questions_of_few_groups_show_nothing_however_many_they_are() -> None:
    rows = rows_of(200, 8, 28, groups=4)
    told = strength(rows[0], 0.05)
    assert "at 36 of 200 questions. So few groups cannot show any difference. To find one of 5 points" in told
    assert "a real difference of 9 points or more is found" in strength(rows_of(200, 8, 28, groups=50)[0], 0.05)


def test_words_stand_beside_the_interval_and_the_p_that_say_so() -> None:
    """Nine of ten gained: alone p is 0.021, among all measures it is more; nothing beside the word says otherwise."""
    rows = rows_of(20, 1, 9)
    page = str(comparison_page("questions", rows, 0.05))
    assert "1 of 20 (5%, 1 to 24)  9 of 20 (45%, 26 to 66)" in page
    low, high = paired_shares(1, 9, 20, 0.96)
    raised = 2 * (1 + 10) / 2**10 / 0.8
    [line] = [line.split("  ") for line in page.splitlines() if line.startswith("right answers  ")]
    assert [cell.strip() for cell in line if cell][3:] == [
        f"+40.0 points (+{100 * low:.1f} to +{100 * high:.1f}, 96 %)", f"{raised:.3f}", "better",
    ]  # fmt: skip
    assert "adjusted p: how often chance alone would make at least this large a difference" in page
    assert "in which a difference may be claimed that is none, the headline, right answers, has 4 %, and the o" in page
    assert "the same in both: ended by itself 20 of 20 (100%, 84 to 100)" in page
    alone = str(comparison_page("questions", rows_of(20, 1, 9, alone=True), 0.05))
    assert "95 %)  0.021" in alone
    assert "Holm" not in alone
