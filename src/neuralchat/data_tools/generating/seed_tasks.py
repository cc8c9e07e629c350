"""Seed tasks: what was written for a teacher to see, and how some of them are drawn for a request."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from neuralchat.data.record_files import RawRow, SyntaxProblem, read_rows
from neuralchat.errors import DataError, problem_list

PACKAGE_SEEDS = "seeds/business_and_hardware.jsonl"
FEWEST_SEEDS = 8
# Of eight tasks that a request shows, so many are seed tasks (Self-Instruct, Wang et al., 2022).
SHOWN_SEEDS, SHOWN_MACHINE = 6, 2


@dataclass(frozen=True)
class ShownTask:
    """A task as a request shows it. `id`: of a seed task, or of a record that was made."""

    id: str
    instruction: str
    is_classification: bool


def package_seeds() -> Path:
    return Path(str(files("neuralchat.data_tools") / "generating" / PACKAGE_SEEDS))


def read_seed_tasks(path: Path) -> list[ShownTask]:
    """Rows with `instruction`, and with `is_classification` and `id` where they have them.

    Raises DataError with all that is wrong with them.
    """
    if not path.is_file():
        raise DataError(f"--seeds {path} {'is no file' if path.exists() else 'does not exist'}")
    problems, tasks = [], []
    for row in read_rows(path):
        if isinstance(row, SyntaxProblem):
            problems.append(f"{path}{f' row {row.row}' if row.row else ''}: {row.what}")
            continue
        problem = seed_problem(row.value)
        if problem:
            problems.append(f"{path} row {row.number}: {problem}")
        else:
            tasks.append(task_of(row))
    ids = [task.id for task in tasks]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        problems.append(f"{path}: the id {twice[0]} is given more than once")
    if not problems and len(tasks) < FEWEST_SEEDS:
        problems.append(f"{path} has {len(tasks)} tasks; at least {FEWEST_SEEDS} are needed, and 100 are better")
    if problems:
        raise DataError(problem_list("the seed tasks cannot be used:", problems))
    return tasks


def seed_problem(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "is no object with fields"
    if not isinstance(value.get("instruction"), str) or not value["instruction"].strip():
        return "field 'instruction' must be a text that is not empty"
    if not isinstance(value.get("is_classification", False), bool):
        return "field 'is_classification' must be true or false"
    return None


def task_of(row: RawRow) -> ShownTask:
    value = row.value
    return ShownTask(
        str(value.get("id", f"seed-{row.number:03}")),
        value["instruction"].strip(),
        value.get("is_classification", False),
    )


def drawn_tasks(seeds: Sequence[ShownTask], made: Sequence[ShownTask], rng: random.Random) -> list[ShownTask]:
    """Eight tasks in a random order; as long as too few were made, more of the seeds."""
    machine = rng.sample(made, min(SHOWN_MACHINE, len(made)))
    written = rng.sample(seeds, min(SHOWN_SEEDS + SHOWN_MACHINE - len(machine), len(seeds)))
    shown = [*written, *machine]
    rng.shuffle(shown)
    return shown
