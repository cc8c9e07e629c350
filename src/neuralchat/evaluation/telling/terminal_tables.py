"""What was compared -> tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from neuralchat.console.tables import Page, Table
from neuralchat.evaluation.comparison import LOSS, Compared
from neuralchat.evaluation.scoring.scorers import RIGHT
from neuralchat.evaluation.statistics import ALPHA
from neuralchat.evaluation.telling.outcome import PartOutcome, figure_text, value_text
from neuralchat.runs.differences import ADJUSTED_P, difference_text, probability

FEW_QUESTIONS = 30
# As `power.POWER` has it.
FOUND = "4 of 5 such evaluations"


def comparison_page(part: str, rows: Sequence[Compared], detect: float) -> Page:
    """Of one pair of systems: each measure with its difference, and how much these questions can show."""
    first = rows[0]
    title = f"\n{part}: {first.second} beside {first.first}, {number_asked(first)}"
    alike, told = [row for row in rows if is_alike(row)], [row for row in rows if not is_alike(row)]
    table = Table(
        ("measure", "before (95 %)", "after (95 %)", "difference", "adjusted p", ""),
        [(row.title, *values(row), difference(row), probability(row.adjusted_p), row.says) for row in told],
    )
    same = ", ".join(f"{row.title} {values(row)[0]}" for row in alike)
    return Page(
        [
            title,
            *([table] if told else []),
            *([f"the same in both: {same}"] if alike else []),
            *([p_text(rows)] if told else []),
            *([said] if (said := strength(first, detect)) else []),
        ]
    )


def page_of_one(part: PartOutcome) -> Page:
    """Of a system that nothing was compared with: the same table without the column of the other."""
    side = part.sides[0]
    title = f"\n{part.name}: {side.system.name}, {questions_text(len(part.items))}"
    return Page([title, Table(("measure", "figure (95 %)"), side.figures())] if side.figures() else [title])


def runs_table(rows: Sequence[Compared]) -> Table:
    """Several systems by their headline, right answers and their loss, each pair a row."""
    shown = [row for row in rows if row.headline or row.measure in (RIGHT.name, LOSS)]
    return Table(
        ("measure", "first", "second", "first (95 %)", "second (95 %)", "difference", "adjusted p", ""),
        [
            (
                row.title,
                row.first,
                row.second,
                *values(row),
                difference(row),
                probability(row.adjusted_p),
                row.says,
            )
            for row in shown
        ],
    )


def figures_table(part: PartOutcome) -> Table | None:
    """Of each system what is no sum over questions; None where there is none."""
    names = dict.fromkeys(name for side in part.sides for name in side.system.figures)
    if not names:
        return None
    return Table(
        ("measure", *(side.system.name for side in part.sides)),
        [
            (name, *(figure_text(f[name]) if name in f else "" for f in (s.system.figures for s in part.sides)))
            for name in names
        ],
    )


def number_asked(row: Compared) -> str:
    questions = questions_text(row.questions)
    return questions if row.clusters is None else f"{questions} in {row.clusters} groups"


def questions_text(questions: int) -> str:
    return f"{questions} question{'s' * (questions != 1)}"


def p_text(rows: Sequence[Compared]) -> str:
    """What "adjusted p" is, for who has not met one, and which measure is the headline."""
    others, head = len(rows) - 1, rows[0]
    told = f"adjusted p: {ADJUSTED_P}"
    claimed = f"below {ALPHA:g} a difference is claimed, otherwise none can be seen"
    if not others:
        return f"{told}; {claimed}"
    whose = " (your function)" if head.measure == "run_code" else ""
    share = f"the other {others} share" if others > 1 else "the other has"
    return (
        f"{told}, raised because {others + 1} measures are looked at together (Holm), as the intervals are wider; "
        f"{claimed}. Of the {100 * ALPHA:g} % of evaluations in which a difference may be claimed that is none, the "
        f"headline, {head.title}{whose}, has {100 * ALPHA * head.weight:g} %, and {share} the rest"
    )


def is_alike(row: Compared) -> bool:
    """Whether there is nothing to compare: no question differs."""
    return not row.differing


def values(row: Compared) -> tuple[str, str]:
    """Before and after; shares with their intervals of 95 %, means without: their difference has one."""
    before, after = (row.before_interval, row.after_interval) if row.share else (None, None)
    return (
        value_text(row.measure, row.before, before, row.questions, share=row.share),
        value_text(row.measure, row.after, after, row.questions, share=row.share),
    )


def difference(row: Compared) -> str:
    digits = 1 if row.share or row.measure == "tokens" else 3
    return difference_text(row.difference, row.interval, row.confidence, share=row.share, digits=digits)


def strength(row: Compared, detect: float) -> str:
    """How small a difference of the headline these questions can show, and how many a given one takes."""
    sentences = []
    if row.share and row.needed is not None:
        changed, what = row.differing / row.questions, "questions" if row.clusters is None else "groups"
        sentences.append(f"{row.title}: the two differ at {row.differing or 'none'} of {row.questions} questions")
        how_often = "as often"
        if row.visible is None:
            sentences.append(f"So few {what} cannot show any difference")
            how_often = f"in {FOUND}"
        else:
            found = (
                f"a real difference of {points_text(row.visible)} or more is found in {FOUND}, a smaller one less often"
            )
            where = "about as many" if row.visible <= changed else "more"
            sentences.append(f"Where two systems differ at {where}, {found}")
        about = "about" if detect <= changed else "at least"
        sentences.append(f"To find one of {points_text(detect)} {how_often} takes {about} {row.needed:,} questions")
    elif row.needed is not None:
        sentences.append(f"to find a difference of {detect:g} in {FOUND} takes about {row.needed:,} questions")
    if row.clusters is not None and sentences:
        sentences[-1] += ", more where those of a group are alike"
    if row.questions < FEW_QUESTIONS:
        sentences.append(f"{row.questions} questions are few: every figure is uncertain")
    return ". ".join(sentences)


def points_text(share: float) -> str:
    """
    >>> points_text(0.41), points_text(0.414), points_text(0.01)
    ('41 points', '41.4 points', '1 point')
    """
    points = f"{100 * share:.4g}"
    return f"{points} point{'s' * (points != '1')}"
