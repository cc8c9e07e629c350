"""What an evaluation found of each finished run -> its figures, kept beside it for model cards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from neuralchat.console import note
from neuralchat.evaluation.items import QUESTIONS
from neuralchat.evaluation.statistics import Interval
from neuralchat.evaluation.systems import Candidate
from neuralchat.evaluation.telling.outcome import EvaluationOutcome, PartOutcome
from neuralchat.runs.differences import known_ends
from neuralchat.runs.directory import MANIFEST
from neuralchat.runs.kept_evaluation import KeptFigure, keep_evaluation

# What is neither good nor bad, or the same said otherwise, is no figure of a card.
NOT_KEPT = {"tokens", "refusals"}


def keep_figures(systems: Sequence[Candidate], outcome: EvaluationOutcome, questions: str | None) -> None:
    """`questions`: the file that was asked. What cannot be kept is told; checkpoints and base models keep nothing."""
    for system in systems:
        run = Path(system.path)
        if system.step is not None or not (run / MANIFEST).is_file():
            continue
        figures = [figure for part in outcome.parts for figure in part_figures(part, system.name, questions)]
        for text in keep_evaluation(run, figures) if figures else ():
            note(text)


def part_figures(part: PartOutcome, name: str, questions: str | None) -> Iterator[KeptFigure]:
    file = Path(questions).name if questions and part.name == QUESTIONS else ""
    bases = {side.system.name for side in part.sides if side.is_base}
    rows = [row for row in part.compared if row.second == name and row.first in bases]
    for row in rows:
        if row.measure not in NOT_KEPT:
            yield KeptFigure(
                part=part.name,
                file=file,
                measure=row.title,
                questions=row.questions,
                share=row.share,
                before=row.before,
                after=row.after,
                difference=row.difference,
                interval=row.interval if known_ends(row.interval) else None,
                confidence=row.confidence,
                adjusted_p=row.adjusted_p,
                before_interval=kept_interval(row.before_interval, row.share),
                after_interval=kept_interval(row.after_interval, row.share),
                says=row.says,
                max_new_tokens=part.max_new_tokens,
            )
    if rows:
        return
    for side in part.sides:
        if side.system.name == name:
            for measure, (title, mean, share, interval) in side.means.items():
                if measure not in NOT_KEPT:
                    yield KeptFigure(
                        part=part.name,
                        file=file,
                        measure=title,
                        questions=len(side.scores[measure]),
                        share=share,
                        after=mean,
                        after_interval=kept_interval(interval, share),
                        max_new_tokens=part.max_new_tokens,
                    )


def kept_interval(interval: Interval, share: bool) -> Interval | None:
    """Of a share; those of means are in the JSON alone."""
    return interval if share else None
