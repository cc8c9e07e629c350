"""a run and the number of an optimizer step -> all that the training loop is given in it, and what was logged of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from neuralchat.config.methods import METHODS
from neuralchat.data.step_shares import StepShares
from neuralchat.data_tools.preview.rows import TokenRow, rows_of_share
from neuralchat.data_tools.preview.shown import Shown
from neuralchat.errors import ArgumentsError, ModelError, problem_list
from neuralchat.preparation.packed_rows import layout_without_weights
from neuralchat.preparation.run_data import RunData, checked_identity
from neuralchat.preparation.step_rows import make_step_shares
from neuralchat.runs.directory import METRICS, read_manifest, read_metrics

# What a manifest may say.
MOST_OF_A_WORLD = 1 << 16
# Of a step, in its line of metrics.jsonl.
LOGGED = ("loss", "general_divergence", "grad_norm", "learning_rate")


@dataclass(frozen=True)
class StepsOfRun:
    """`shares`: of each process. `last_step`: the last of all. `metrics`: what was logged, where the run is there."""

    run: RunData
    shares: Sequence[StepShares]
    last_step: int
    metrics: Sequence[dict[str, Any]]
    where: str

    @property
    def plan_steps(self) -> int:
        return self.shares[0].plan.steps

    def examples(self, step: int) -> list[int]:
        """Numbers of the examples of step `step`, from 1."""
        return [index for unit in self.shares[0].units(step - 1) for index in unit]

    def counts(self, steps: Sequence[int]) -> tuple[int, int]:
        """(tokens, supervised tokens) of these steps, as training counts them."""
        store = self.run.data.trained_on
        indices = np.array([index for step in steps for index in self.examples(step)])
        return int(store.lengths[indices].sum()), int(store.supervised_lengths[indices].sum())


def steps_of_run(run: RunData, resume: Path | None) -> StepsOfRun:
    """Raises RunDirectoryError where the run of --from_run or `resume` was made of other records or arguments."""
    arguments, data = run.arguments, run.data
    training = arguments.training_arguments()
    repeated = Path(arguments.tuning.from_run) if arguments.tuning.from_run is not None and resume is None else None
    is_known = repeated is not None or resume is not None
    identity = checked_identity(run, resume, computes=False) if is_known else {}
    results = read_manifest(repeated)["results"] if repeated is not None else {}
    try:
        layout = layout_without_weights(arguments, run.config)
    except ModelError as error:
        raise ModelError(f"--step must know how rows of this model are packed, and cannot: {error}") from error
    if results.get("packed") is False:
        layout = None
    first = make_step_shares(
        arguments,
        training,
        data,
        layout=layout,
        units_per_step=identity.get("global_batch", run.own_batch),
        micro_batch_tokens=max(0, results.get("micro_batch_tokens", 0)) or arguments.tuning.most_tokens_at_once,
        rank=0,
        world_size=processes_of(identity, run),
    )
    shares = [replace(first, rank=rank) for rank in range(first.world_size)]
    planned = training.max_steps if training.max_steps > 0 else training.num_train_epochs * first.plan.steps
    directory = repeated or (resume.parent if resume is not None else None)
    return StepsOfRun(
        run,
        shares,
        last_step=results.get("steps") or math.ceil(planned),
        metrics=read_metrics(directory) if directory is not None else [],
        where=str(directory),
    )


def processes_of(identity: Mapping[str, Any], run: RunData) -> int:
    """How many trained; another may have written the run."""
    found = identity.get("world_size")
    return found if isinstance(found, int) and 1 <= found <= MOST_OF_A_WORLD else run.world_size


def shown_steps(steps: StepsOfRun, wanted: Sequence[int]) -> list[Shown]:
    """Raises ArgumentsError for a step that there is not."""
    if bad := [step for step in wanted if step > steps.last_step]:
        told = [f"--step {step}: the run has {steps.last_step} steps" for step in bad]
        raise ArgumentsError(problem_list("these steps cannot be shown:", told))
    return [shown_step(steps, step) for step in dict.fromkeys(wanted)]


def shown_step(steps: StepsOfRun, step: int) -> Shown:
    shares = [shares[step - 1] for shares in steps.shares]
    supervised = sum(share.supervised_tokens for share in shares)
    rows = []
    for rank, share in enumerate(shares):
        mark = f"rank {rank}, " if len(shares) > 1 else ""
        own = rows_of_share(share)
        rows += [
            TokenRow(f"{mark}micro-batch {number} of {len(own)}: {row.title}", row.parts)
            for number, row in enumerate(own, start=1)
        ]
        rows += [] if own else [TokenRow(f"{mark}nothing in this step", [])]
    epoch, within = divmod(step - 1, steps.plan_steps)
    tokens = sum(share.tokens for share in shares)
    figures = [
        ("step", f"{step} of {steps.last_step}: step {within + 1} of {steps.plan_steps} of epoch {epoch + 1}"),
        ("examples", f"{len(steps.examples(step))}: " + ", ".join(sources_of(steps, step))),
        ("tokens", f"{tokens:,}, of which {supervised:,} are learned; each of them is 1/{supervised} of the loss"),
        *general_figure(steps, step),
        *virtual_figure(steps),
        *logged_figures(steps, step),
    ]
    return Shown(f"step {step}", rows, figures, weight=1 / max(1, supervised))


def sources_of(steps: StepsOfRun, step: int) -> list[str]:
    """The records of a step, those of one file together.

    Each file is named once, with its rows.
    """
    rows: dict[str, list[str]] = {}
    for source in steps.shares[0].sources(step - 1):
        name, _, row = source.rpartition(" row ")
        rows.setdefault(name, []).append(row)
    return [f"{name} row {' '.join(numbers)}" for name, numbers in rows.items()]


def general_figure(steps: StepsOfRun, step: int) -> list[tuple[str, str]]:
    general = steps.shares[0].general
    if general is None:
        return []
    chosen = general.step(step - 1)
    if not chosen:
        return [("general", "no prompt stands beside this step")]
    weight = steps.run.arguments.tuning.general_weight / general.positions_per_step
    what = f"{len(chosen)} prompt(s) of {sum(general.lengths[index] for index in chosen)} tokens"
    return [("general", f"{what}; the divergence of each compared prediction weighs {weight:.2g}")]


def logged_figures(steps: StepsOfRun, step: int) -> list[tuple[str, str]]:
    """What metrics.jsonl says of the step, and whether its tokens are those that are shown here."""
    lines = [line for line in steps.metrics if isinstance(line.get("step"), int) and "loss" in line]
    after = next((line for line in lines if line["step"] >= step), None)
    if after is None:
        return [("logged", f"nothing in {steps.where}/{METRICS}")] if steps.metrics else []
    before = next((line for line in reversed(lines) if line["step"] < step), {"step": 0})
    covered = range(before["step"] + 1, after["step"] + 1)
    values = ", ".join(f"{name} {after[name]:.4g}" for name in LOGGED if isinstance(after.get(name), int | float))
    mean = f" (loss: mean over the steps {covered[0]} to {covered[-1]})" if len(covered) > 1 else ""
    logged = tuple(count_in_line(after, name) - count_in_line(before, name) for name in ("tokens", "supervised_tokens"))
    return [("logged", f"{values}{mean}"), ("agrees", agreement(steps.counts(covered), logged))]


def count_in_line(line: Mapping[str, Any], name: str) -> int:
    value = line.get(name)
    return value if isinstance(value, int) else 0


def agreement(shown: tuple[int, int], logged: tuple[int, ...]) -> str:
    """
    >>> agreement((10, 4), (10, 4))
    'the log counts the same tokens'
    """
    if shown == logged:
        return "the log counts the same tokens"
    return (
        f"no: the log counts {logged[0]:,} tokens, {logged[1]:,} learned; here are {shown[0]:,} and {shown[1]:,}. "
        "A callback that ended an epoch early moves what follows"
    )


def virtual_figure(steps: StepsOfRun) -> list[tuple[str, str]]:
    tuning = steps.run.arguments.tuning
    if not METHODS[tuning.peft].virtual_tokens:
        return []
    return [("virtual", f"{tuning.num_virtual_tokens} virtual tokens come first; positions of texts begin after them")]
