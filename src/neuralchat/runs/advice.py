"""results and metrics of a run -> what it says about the next one: under-fit, over-fit, learned by heart, forgotten.

Losses are means over supervised tokens. The training loss at the end is that of the last tenth of the logged steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from neuralchat.runs.directory import series
from neuralchat.runs.results import RunResults

# The held-out loss has risen by so much since its best evaluation: more than evaluations of one state differ by.
RISEN = 1.05
# Of its loss before, a run keeps more than this: it has hardly learned.
HARDLY_LOWER = 0.9
# Records are known by heart where their loss is below this, and other records' is so many times as high.
BY_HEART, PARTED = 0.2, 4.0
# Of what was right before, less than this is still right.
# A run asks about ten questions that its base knows: of a bot that keeps three in five this sees five of six, and it
# doubts one in eight that keeps seven in eight.
LITTLE_KEPT = 0.8
# With fewer questions right before, what is kept of them says little.
FEWEST_KNOWN = 4


def advice(results: RunResults, metrics: Sequence[Mapping[str, Any]], *, keeps_general: bool) -> tuple[str, ...]:
    """Sentences for the person who trained, each with the flag to change; none where nothing stands out."""
    return (
        *fitting_advice(results, series(metrics, "loss"), series(metrics, "eval_loss")),
        *forgetting_advice(results, keeps_general=keeps_general),
    )


def fitting_advice(
    results: RunResults, training: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]]
) -> Iterator[str]:
    before, after = results.held_out_loss_before, results.held_out_loss_after
    best_step, best = min(held_out, key=lambda point: point[1], default=(0, math.inf))
    if after is not None and held_out and not results.best_step and after > RISEN * best and best_step:
        yield (
            f"over-fit: the held-out loss was lowest at step {best_step} ({best:.3f}) and is {after:.3f} at the end. "
            "Fewer --num_train_epochs, or --load_best_model_at_end true with --eval_strategy steps"
        )
    elif before is not None and after is not None and after > before:
        yield (
            f"the held-out loss has risen from {before:.3f} to {after:.3f}: a smaller --learning_rate or fewer "
            "--num_train_epochs; or the held-out records are of another kind than those trained on"
        )
    elif before is not None and after is not None and after > HARDLY_LOWER * before:
        yield (
            f"under-fit: the held-out loss is {after:.3f}, it was {before:.3f}. More --num_train_epochs, a higher "
            "--learning_rate, or more records"
        )
    elif after is None and len(training) > 1 and at_end(training) > HARDLY_LOWER * training[0][1]:
        yield (
            f"under-fit: the training loss is {at_end(training):.3f}, it began at {training[0][1]:.3f}. More "
            "--num_train_epochs or a higher --learning_rate"
        )
    if training and after is not None and at_end(training) < BY_HEART and after > PARTED * at_end(training) + BY_HEART:
        yield (
            f"learned by heart: the loss of the records is {at_end(training):.3f}, that of the held-out ones "
            f"{after:.3f}. The same in more wordings helps most; or fewer --num_train_epochs, a smaller --lora_rank"
        )


def forgetting_advice(results: RunResults, *, keeps_general: bool) -> Iterator[str]:
    known = [sample for sample in results.general_samples if sample.get("right_before")]
    kept = sum(bool(sample["right_after"]) for sample in known)
    if len(known) < FEWEST_KNOWN or kept >= LITTLE_KEPT * len(known):
        return
    remedy = (
        "fewer --num_train_epochs, a smaller --learning_rate, or a larger --general_weight"
        if keeps_general
        else "--keep_general true holds on to it; so do fewer --num_train_epochs and a smaller --learning_rate"
    )
    yield (
        f"forgotten: of {len(known)} general questions that the model answered right before, {kept} are right now. "
        f"{remedy[0].upper()}{remedy[1:]}"
    )


def at_end(points: Sequence[tuple[int, float]]) -> float:
    """
    >>> at_end([(1, 4.0), (2, 2.0)])
    2.0
    """
    last = [value for _, value in points[-max(1, len(points) // 10) :]]
    return sum(last) / len(last)
