"""What `neuralchat eval` found of a run, kept beside it for its model cards: figures, and no question or answer.

It is believed only beside the very manifest that it was found beside: of another training it says nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neuralchat.errors import system_reason
from neuralchat.files import file_sha256, read_file, write_file
from neuralchat.runs.directory import EVALUATION, MANIFEST, is_plain, json_text, why_unwritable

MAX_EVALUATION_BYTES = 1 << 20
# Of one run; cards are for people.
MOST_FIGURES = 400
# Fewer questions are a trial of the command: an interval of so few says next to nothing.
TRIAL_QUESTIONS = 20


@dataclass(frozen=True, kw_only=True)
class KeptFigure:
    """One measure of a run, and of its base model where that was asked too.

    `part`: what was asked; `file`: the name of a file of questions, else empty. `share`: answers that are counted, from
    0 to 1. `interval`: of `difference`, of `confidence` (None where an older version kept it: 95 %), and None where
    nothing is known; `before_interval` and `after_interval`: of 95 %. `says`: better, worse, more, fewer, or that none
    can be seen. `max_new_tokens`: of an answer; None where an older version kept it, and of what others asked.
    """

    part: str
    file: str
    measure: str
    questions: int
    share: bool
    after: float
    before: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    says: str = ""
    confidence: float | None = None
    adjusted_p: float | None = None
    before_interval: tuple[float, float] | None = None
    after_interval: tuple[float, float] | None = None
    max_new_tokens: int | None = None

    @property
    def source(self) -> tuple[str, str]:
        return self.part, self.file


def questions_by_set(figures: Sequence[KeptFigure]) -> dict[tuple[str, str], int]:
    """How many questions each set had; a measure may be of some of them only."""
    found: dict[tuple[str, str], int] = {}
    for figure in figures:
        found[figure.source] = max(figure.questions, found.get(figure.source, 0))
    return found


def figures_of_card(figures: Sequence[KeptFigure]) -> list[KeptFigure]:
    """Those that say something of a run: of sets that are no trial, or of the largest where all are."""
    asked = questions_by_set(figures)
    chosen = {source for source, count in asked.items() if count >= TRIAL_QUESTIONS}
    if asked and not chosen:
        # Of several as large the latest, which comes last.
        chosen = {max(reversed(asked), key=lambda source: asked[source])}
    return [figure for figure in figures if figure.source in chosen]


def keep_evaluation(run: Path, figures: Sequence[KeptFigure]) -> list[str]:
    """Beside those of other questions; what was not kept and why, a text for each set of them or one for all.

    Each set of questions has its latest figures, but a trial does not take the place of an evaluation.
    """
    file = run / EVALUATION
    where = f"beside {run} for its model card"
    if reason := why_unwritable(file):
        return [f"the figures are not kept {where}: {reason}"]
    earlier, asked = kept_evaluation(run), questions_by_set(figures)
    larger = {
        source: count
        for source, count in questions_by_set(earlier).items()
        if asked.get(source, TRIAL_QUESTIONS) < TRIAL_QUESTIONS <= count
    }
    trials = [
        f"{asked[source]} questions ({source[1] or source[0]}) are a trial: the figures of {count} stay {where}"
        for source, count in larger.items()
    ]
    figures = [figure for figure in figures if figure.source not in larger]
    if not figures:
        return trials
    new = {figure.source for figure in figures}
    found = [*(figure for figure in earlier if figure.source not in new), *figures][-MOST_FIGURES:]
    try:
        kept = {"manifest_sha256": file_sha256(run / MANIFEST), "figures": [asdict(figure) for figure in found]}
        write_file(file, json_text(kept))
    except OSError as error:
        return [*trials, f"the figures are not kept {where}: {system_reason(error)}"]
    return trials


def kept_evaluation(run: Path) -> list[KeptFigure]:
    """Empty where none was kept, where it is of another training, or what is there is not ours."""
    try:
        kept = json.loads(read_file(run / EVALUATION, MAX_EVALUATION_BYTES).decode("utf-8"))
        if not isinstance(kept, dict) or kept.get("manifest_sha256") != file_sha256(run / MANIFEST):
            return []
        figures = kept.get("figures")
        return [figure_of(entry) for entry in figures[:MOST_FIGURES]] if isinstance(figures, list) else []
    except (OSError, ValueError, RecursionError, TypeError):
        return []


def figure_of(entry: Any) -> KeptFigure:
    """Raises TypeError or ValueError for what we did not write."""
    figure = KeptFigure(**entry)
    texts = (figure.part, figure.file, figure.measure, figure.says)
    if not all(isinstance(text, str) and is_plain(text) for text in texts) or not isinstance(figure.share, bool):
        raise TypeError
    intervals = {
        name: tuple(float(end) for end in found)
        for name in ("interval", "before_interval", "after_interval")
        if (found := getattr(figure, name)) is not None
    }
    numbers = [figure.after, figure.before, figure.difference, figure.questions, figure.confidence, figure.adjusted_p]
    numbers += [end for interval in intervals.values() for end in interval]
    if not all(n is None or (isinstance(n, int | float) and math.isfinite(n)) for n in numbers):
        raise TypeError
    if figure.after is None or not isinstance(figure.questions, int):
        raise TypeError
    if not isinstance(figure.max_new_tokens, int | None):
        raise TypeError
    if any(len(interval) != 2 for interval in intervals.values()) or not 0 < (figure.confidence or 0.5) < 1:
        raise TypeError
    return KeptFigure(**{**asdict(figure), **intervals})
