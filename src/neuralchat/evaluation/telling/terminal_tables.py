"""What was compared -> tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from neuralchat.console.tables import Page, Table
from neuralchat.evaluation.comparison import LOSS, Compared
from neuralchat.evaluation.telling.outcome import PartOutcome, figure_text

FEW_QUESTIONS = 30


def comparison_page(part: str, rows: Sequence[Compared], detect: float) -> Page:
    """Of one pair of systems: each measure with its difference, and how much these questions can show."""
    first = rows[0]
    title = f"\n{part}: {first.second} beside {first.first}, {number_asked(first)}"
    alike, told = [row for row in rows if is_alike(row)], [row for row in rows if not is_alike(row)]
    table = Table(
        ("measure", "before", "after", "difference (95 %)", "p", ""),
        [
            (row.title, value(row, row.before), value(row, row.after), difference(row), probability(row.p), row.says)
            for row in told
        ],
    )
    same = ", ".join(f"{row.title} {value(row, row.before)}" for row in alike)
    return Page(
        [
            title,
            *([table] if told else []),
            *([f"the same in both: {same}"] if alike else []),
            *([text] if (text := strength(first, detect)) else []),
        ]
    )


def runs_table(rows: Sequence[Compared]) -> Table:
    """Several systems by their headline and their loss, each pair a row."""
    shown = [row for row in rows if row.headline or row.measure == LOSS]
    return Table(
        ("measure", "first", "second", "first", "second", "difference (95 %)", "p", ""),
        [
            (
                row.title,
                row.first,
                row.second,
                value(row, row.before),
                value(row, row.after),
                difference(row),
                probability(row.p),
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


def is_alike(row: Compared) -> bool:
    """Whether there is nothing to compare: no question differs."""
    return row.difference == 0 and row.p == 1 and ((row.share and not row.lost) or row.interval == (0, 0))


def value(row: Compared, number: float) -> str:
    if row.share:
        return f"{number * row.questions:.0f} of {row.questions} ({number:.0%})"
    if row.measure == LOSS:
        return f"{number:.3f} (perplexity {math.exp(min(number, 700.0)):.2f})"
    return f"{number:.1f}" if row.measure == "tokens" else f"{number:.3f}"


def difference(row: Compared) -> str:
    low, high = row.interval
    if not math.isfinite(high - low):
        return f"{row.difference:+.3f} (one question tells no interval)"
    if row.share:
        return f"{100 * row.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    digits = 1 if row.measure == "tokens" else 3
    return f"{row.difference:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def probability(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def strength(row: Compared, detect: float) -> str:
    """How small a difference of the headline these questions can show, and how many a given one takes."""
    text = ""
    if row.visible is not None and row.needed is not None and row.lost is not None and row.gained is not None:
        text = (
            f"where {(row.lost + row.gained) / row.questions:.0%} of the answers turn right or wrong, {row.questions} "
            f"questions show a difference of {100 * row.visible:.0f} points (in 4 of 5 evaluations), and "
            f"{100 * detect:g} points take about {row.needed:,}"
        )
    elif row.needed is not None:
        text = f"to see a difference of {detect:g} takes about {row.needed:,} questions"
    if row.clusters is not None and text:
        text += ", more where those of a group are alike"
    if row.questions < FEW_QUESTIONS:
        text += ("; " if text else "") + f"{row.questions} are few, so that every figure is uncertain"
    return text
