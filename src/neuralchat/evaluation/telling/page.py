"""What an evaluation found -> one self-contained page with no script and no outside resource."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from neuralchat.console.terminal import visible
from neuralchat.evaluation.comparison import LOSS, NO_DIFFERENCE, Compared
from neuralchat.evaluation.facts import alternatives_of
from neuralchat.evaluation.items import GENERAL, HELD_OUT, QUESTIONS, Item
from neuralchat.evaluation.scoring.scorers import RIGHT
from neuralchat.evaluation.telling.outcome import EvaluationOutcome, PartOutcome, Side
from neuralchat.evaluation.telling.terminal_tables import difference, number_asked, p_text, strength, values
from neuralchat.runs.differences import probability
from neuralchat.runs.report import Curve, page_template, svg
from neuralchat.secrets import without_remembered

SIMILAR = "rouge_l"
BEFORE_PERCENT = re.compile(r"(?<=\d) %")
# Other parts are tasks of the harness.
WHAT_IS_ASKED = {QUESTIONS: "questions", HELD_OUT: "held-out records", GENERAL: "general questions"}
# Of systems in the title of the page.
MOST_NAMES = 3
# Pixels of a row of differences; along x all is in percent of its width, which is the reader's.
ROW_HEIGHT = 28
GROUPS = {
    (True, False): "lost: right before, wrong after",
    (False, False): "wrong before and after",
    (False, True): "gained: wrong before, right after",
    (True, True): "right before and after",
}


def render_evaluation(outcome: EvaluationOutcome) -> str:
    """The page. All that comes from models and records is escaped."""
    tuned = [side.system.name for side in outcome.parts[0].sides if side.system.name not in bases(outcome.parts[0])]
    page = page_template("evaluation/telling/page.html.j2").render(
        name=", ".join(tuned) if len(tuned) <= MOST_NAMES else f"{tuned[0]} to {tuned[-1]}",
        parts=[part_of_page(part, outcome.detect) for part in outcome.parts],
    )
    return without_remembered(visible(page))


def bases(part: PartOutcome) -> set[str]:
    """The names of base models: what others are compared with before all else."""
    return {side.system.name for side in part.sides if side.is_base}


def part_of_page(part: PartOutcome, detect: float) -> dict[str, Any]:
    pairs = part.by_pair()
    first = pairs[0][0] if pairs else None
    return {
        "name": WHAT_IS_ASKED.get(part.name, f"documents of {part.name}"),
        "asked": len(part.items),
        "max_new_tokens": part.max_new_tokens,
        "title": title_of(part, None if first is None else number_asked(first)),
        "pairs": [pair_of_page(rows, detect) for rows in pairs],
        "figures": part.sides[-1].figures(),
        "titles": [title for title, _ in part.sides[-1].figures()],
        "systems": [(side.system.name, [text for _, text in side.figures()]) for side in part.sides],
        "curves": curves_of(part),
        "kinds": [(row.kind.replace("_", " "), row) for row in part.by_kind()],
        "groups": groups_of(part),
    }


def title_of(part: PartOutcome, asked: str | None) -> str:
    name = "general: what was lost of everything else" if part.name == GENERAL and asked else part.name
    return name if asked is None else asked if part.name == QUESTIONS else f"{name}, {asked}"


def as_sentence(text: str) -> str:
    """
    >>> as_sentence("to see it takes more"), as_sentence("")
    ('To see it takes more.', '')
    """
    return f"{text[0].upper()}{text[1:]}." if text else ""


def unbroken(text: str) -> str:
    """Without line breaks between a number and its sign of percent.

    >>> unbroken("+2.0 to +18.0, 96 %")
    '+2.0 to +18.0, 96\\xa0%'
    """
    return BEFORE_PERCENT.sub("\N{NO-BREAK SPACE}%", text)


def pair_of_page(rows: Sequence[Compared], detect: float) -> dict[str, Any]:
    head = rows[0]
    text, _, interval = difference(head).partition(" (")
    return {
        **row_of_page(head),
        "first": head.first,
        "second": head.second,
        "difference": text,
        "interval": unbroken(interval.removesuffix(")")),
        "changed": "" if head.lost is None else f"{head.gained} gained, {head.lost} lost",
        "alone_p": probability(head.p),
        "measures": unbroken(as_sentence(p_text(rows))),
        "strength": as_sentence(strength(head, detect)),
        "rows": [row_of_page(row) for row in rows],
        "plot": difference_plot([row for row in rows if row.share]),
    }


def row_of_page(row: Compared) -> dict[str, str]:
    before, after = values(row)
    return {
        "title": row.title,
        "before": before,
        "after": after,
        "difference": unbroken(difference(row)),
        "adjusted_p": probability(row.adjusted_p),
        "says": row.says,
        "style": style_of(row),
    }


def style_of(row: Compared) -> str:
    return {"better": "better", "worse": "worse", NO_DIFFERENCE: "unseen"}.get(row.says, "")


def difference_plot(rows: Sequence[Compared]) -> str:
    """An interval of each difference of shares around a line at none; empty where there are no shares."""
    if not rows:
        return ""
    widest = max(abs(end) for row in rows for end in row.interval)
    reach = min(1.0, 1.1 * widest) or 1.0

    def place(share: float) -> str:
        return f"{round(50 + 50 * max(-1.0, min(1.0, share / reach)), 1)}%"

    parts = []
    for row in rows:
        low, high = row.interval
        label = escape(f"{row.title}: {difference(row)}, {row.says}", quote=True)
        parts.append(
            f'<span class="name">{escape(row.title)}</span><svg role="img" aria-label="{label}">'
            f'<line class="zero" x1="50%" x2="50%" y1="0" y2="{ROW_HEIGHT}"/>'
            f'<line class="interval {style_of(row)}" x1="{place(low)}" x2="{place(high)}" '
            f'y1="{ROW_HEIGHT // 2}" y2="{ROW_HEIGHT // 2}"/>{point(style_of(row), place(row.difference))}</svg>'
        )
    ends = [f'<text class="x" x="{place(s)}" y="16">{signed(100 * s)}</text>' for s in (-reach, 0.0, reach)]
    keys = {row.says: style_of(row) for row in rows}
    told = [f"<span><svg>{point(style, '50%', 7)}</svg> {escape(says)}</span>" for says, style in keys.items()]
    return (
        f'<div class="intervals">{"".join(parts)}<svg class="axis" aria-hidden="true">{"".join(ends)}</svg></div>'
        f'<p class="key" aria-hidden="true">{"".join(told)}</p>'
    )


def point(style: str, x: str, y: float = ROW_HEIGHT / 2) -> str:
    """A difference; what is worse has a form of its own, for those to whom colours are alike."""
    if style != "worse":
        return f'<circle class="point {style}" cx="{x}" cy="{y:g}" r="4"/>'
    return f'<svg x="{x}" y="{y:g}" overflow="visible"><path class="point {style}" d="M-5 0 0-5 5 0 0 5z"/></svg>'


def signed(points: float) -> str:
    """
    >>> signed(12.4), signed(-3), signed(0)
    ('+12', '-3', '0')
    """
    return f"{points:+.0f}" if round(points) else "0"


def curves_of(part: PartOutcome) -> list[tuple[str, str]]:
    """(title, SVG) of the headline, right answers and the loss of the checkpoints of a run."""
    steps = [side for side in part.sides if side.system.step is not None]
    if len(steps) < 2:
        return []
    base = [side for side in part.sides if side.is_base]
    found = []
    for name in dict.fromkeys((*list(steps[0].means)[:1], RIGHT.name, LOSS)):
        points = [
            (float(side.system.step or 0), side.means[name].mean) for side in (*base[:1], *steps) if name in side.means
        ]
        if len(points) > 1:
            title = steps[0].means[name].title if name in steps[0].means else name
            found.append((title, svg([Curve("held out", points, "training")], title=title, from_zero=True)))
    return found


def groups_of(part: PartOutcome) -> list[dict[str, Any]]:
    """The items by what became of them, the worst first."""
    last = part.sides[-1]
    first = pair[0] if (pair := part.last_pair()) is not None else last
    places = [place for place in range(len(part.items)) if place in last.system.answers]
    places.sort(key=lambda place: badness(place, first, last), reverse=True)
    before, after = first.scores.get(RIGHT.name), last.scores.get(RIGHT.name)
    if before is None or after is None:
        return [{"title": "all answers", "samples": [sample_of(part, place) for place in places]}]
    groups: dict[str, list[int]] = {title: [] for title in GROUPS.values()}
    others: list[int] = []
    for place in places:
        known = place in before and place in after
        (groups[GROUPS[before[place] > 0, after[place] > 0]] if known else others).append(place)
    if first is last:
        wrong, right = GROUPS[False, False], GROUPS[True, True]
        groups = {"wrong": groups[wrong], "right": groups[right]}
    groups["not checked"] = others
    return [{"title": title, "samples": [sample_of(part, place) for place in found]} for title, found in groups.items()]


def badness(place: int, first: Side, last: Side) -> float:
    """How much worse the last system did than the first; of one that stands alone, how bad it did."""
    for name, sign in ((SIMILAR, -1.0), (LOSS, 1.0)):
        after, before = last.scores.get(name, {}).get(place), first.scores.get(name, {}).get(place)
        if after is not None:
            return sign * (after - (before or 0.0) if first is not last else after)
    return 0.0


def sample_of(part: PartOutcome, place: int) -> dict[str, Any]:
    item = part.items[place]
    expects, expected = expectation(item)
    answers = []
    for side in part.sides:
        answer = side.system.answers.get(place)
        if answer is None:
            continue
        right = side.scores.get(RIGHT.name, {}).get(place)
        answers.append(
            {
                "name": side.system.name,
                "mark": "" if right is None else ("right" if right else "wrong"),
                "text": answer.text.strip() or "(nothing)",
            }
        )
    return {"question": item.question, "answers": answers, "expects": expects, "expected": expected}


def expectation(item: Item) -> tuple[str, str]:
    """(what it is, its text) of what an answer is held against."""
    if item.expected:
        return "the record's answer", item.expected
    facts = [" or ".join(alternatives_of(fact)) for fact in item.facts]
    checks = [f"{name}: {value}" for name, value in item.checks.items()]
    return "a right answer states", ", ".join([*facts, *checks])
