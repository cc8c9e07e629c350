"""What was compared -> tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from neuralchat.console.tables import Page, Table
from neuralchat.evaluation.comparison import LOSS, Compared
from neuralchat.evaluation.scoring.scorers import RIGHT
from neuralchat.evaluation.statistics import ALPHA, Interval
from neuralchat.evaluation.telling.outcome import PartOutcome, figure_text
from neuralchat.runs.differences import difference_text, probability, share_text

FEW_QUESTIONS = 30


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
            *(text for text in (measures_text(rows), strength(first, detect)) if text),
        ]
    )


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
    questions = f"{row.questions} question{'s' * (row.questions != 1)}"
    return questions if row.clusters is None else f"{questions} in {row.clusters} groups"


def measures_text(rows: Sequence[Compared]) -> str:
    """What the words hang on, and which measure is the headline; empty where one alone was looked at."""
    others, head = len(rows) - 1, rows[0]
    if not others:
        return ""
    whose = " (your function)" if head.measure == "run_code" else ""
    share = f"the other {others} share" if others > 1 else "the other has"
    return (
        f"intervals, p and words are for these {others + 1} measures together (Holm): of the {100 * ALPHA:g} % that "
        f"may be claimed falsely, the headline, {head.title}{whose}, has {100 * ALPHA * head.weight:g} %, and {share} "
        "the rest"
    )


def is_alike(row: Compared) -> bool:
    """Whether there is nothing to compare: no question differs."""
    return not row.differing


def values(row: Compared) -> tuple[str, str]:
    """Before and after; shares with their intervals of 95 %."""
    return value(row, row.before, row.before_interval), value(row, row.after, row.after_interval)


def value(row: Compared, number: float, interval: Interval) -> str:
    if row.share:
        return f"{number * row.questions:.0f} of {row.questions} ({share_text(number, interval)})"
    if row.measure == LOSS:
        return f"{number:.3f} (perplexity {math.exp(min(number, 700.0)):.2f})"
    return f"{number:.1f}" if row.measure == "tokens" else f"{number:.3f}"


def difference(row: Compared) -> str:
    digits = 1 if row.share or row.measure == "tokens" else 3
    return difference_text(row.difference, row.interval, row.confidence, share=row.share, digits=digits)


def strength(row: Compared, detect: float) -> str:
    """How small a difference of the headline these questions can show, and how many a given one takes."""
    text = ""
    if row.share and row.needed is not None:
        changed = row.differing / row.questions
        text = f"{row.title}: {row.differing or 'none'} of {row.questions} changed; "
        if row.visible is None:
            what = "questions" if row.clusters is None else "groups"
            text += f"so few {what} can show no difference at all, {100 * detect:g} points take "
        else:
            seen = f"a difference of {100 * row.visible:.0f} points (in 4 of 5 evaluations)"
            text += (
                f"where as many do, {row.questions} questions show {seen}"
                if row.visible <= changed
                else (f"only where more do can {row.questions} questions show any, {seen}")
            )
            text += f", and {100 * detect:g} points take "
        text += f"{'about' if detect <= changed else 'at least'} {row.needed:,}"
    elif row.needed is not None:
        text = f"to see a difference of {detect:g} takes about {row.needed:,} questions"
    if row.clusters is not None and text:
        text += ", more where those of a group are alike"
    if row.questions < FEW_QUESTIONS:
        text += ("; " if text else "") + f"{row.questions} are few, so that every figure is uncertain"
    return text
