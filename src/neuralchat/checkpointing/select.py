"""Which checkpoint a run goes on from: the newest whole one, or the one that is named, seen by every machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuralchat.checkpointing.store import IDENTITY, STATE, SUMS, TRAINER_STATE, damage, files_of
from neuralchat.config.config import NEWEST_CHECKPOINT
from neuralchat.console import note
from neuralchat.distributed.collectives import all_gather_object, rank, run_on_rank_zero
from neuralchat.errors import RunDirectoryError, problem_list
from neuralchat.files import make_directory, read_file, write_file, write_new_file
from neuralchat.runs.directory import (
    ADAPTER,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    METRICS,
    checkpoints,
    read_manifest,
    read_metrics,
)

# Of those that a message names, the newest.
CHECKPOINTS_SHOWN = 8
# There must be a checkpoint.
NEWEST = ("latest", "true", "yes", "on")
NOTHING = ("false", "no", "off")


def asks_to_resume(value: str | None) -> bool:
    """Whether a value of --resume_from_checkpoint means to resume at all."""
    return value is not None and value.lower() not in NOTHING


def checkpoint_to_resume(value: str | None, output: Path, *, weights: str = ADAPTER) -> Path | None:
    """The checkpoint meant by --resume_from_checkpoint: None, a path, or the newest whole one of `output`.

    `weights`: the file of what is trained, an adapter or the whole model. Raises RunDirectoryError where the named one
    is not whole, or no checkpoint is.
    """
    if value is None or not asks_to_resume(value):
        return None
    needed = (weights, STATE, TRAINER_STATE, IDENTITY)
    if value.lower() != NEWEST_CHECKPOINT and value.lower() not in NEWEST:
        chosen = Path(value)
        if not chosen.is_dir():
            raise RunDirectoryError(f"--resume_from_checkpoint {value} is not a directory")
        if not (chosen / SUMS).is_file() and (inside := checkpoints(chosen)):
            names = ", ".join(map(str, inside[-CHECKPOINTS_SHOWN:]))
            raise RunDirectoryError(
                f"--resume_from_checkpoint {chosen} is a run and no checkpoint; name one of its checkpoints ({names}), "
                "or the newest of --output_dir with auto"
            )
        if wrong := damage(chosen, *needed):
            raise RunDirectoryError(f"checkpoint {chosen} is not whole: {wrong}")
        return chosen
    found = checkpoints(output)
    passed_over: list[str] = []
    for candidate in reversed(found):
        wrong = damage(candidate, *needed)
        if wrong is None:
            for text in passed_over[:CHECKPOINTS_SHOWN]:
                note(text)
            if more := len(passed_over[CHECKPOINTS_SHOWN:]):
                note(f"{more} more are passed over")
            note(f"going on from {candidate}")
            return candidate
        passed_over.append(f"{candidate} is passed over: {wrong}")
    if not found and value.lower() == NEWEST_CHECKPOINT:
        note(f"{output} has no checkpoint yet: training begins at its first step")
        return None
    raise RunDirectoryError(
        problem_list(f"--resume_from_checkpoint {value}: there is no whole checkpoint in {output}", passed_over)
    )


def stored_identity(checkpoint: Path) -> dict[str, Any]:
    """What the run of this checkpoint was. Raises RunDirectoryError if that cannot be read."""
    try:
        found = json.loads(read_file(checkpoint / IDENTITY, MAX_MANIFEST_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{checkpoint / IDENTITY} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise RunDirectoryError(f"{checkpoint / IDENTITY} is damaged: it holds no names and values")
    return found


def identity_of_run(run: Path) -> dict[str, Any]:
    """What a finished run was. Raises RunDirectoryError if its manifest does not say."""
    found = read_manifest(run).get("identity")
    if not isinstance(found, dict):
        raise RunDirectoryError(f"{run / MANIFEST} does not say what decided its result; it cannot be repeated exactly")
    return found


def global_batch(stored: Mapping[str, Any] | None, own: int, world_size: int) -> int:
    """Units a step: those of the checkpoint where only the number of processes has changed."""
    if stored is None:
        return own
    before, processes = stored.get("global_batch"), stored.get("world_size")
    if not isinstance(before, int) or not isinstance(processes, int) or processes < 1 or before < 1:
        return own
    same_per_process = own * processes == before * world_size
    return before if same_per_process else own


class SharedCheckpoint:
    """A checkpoint as every rank sees it: where a machine does not have the files, rank 0 sends them."""

    def __init__(self, checkpoint: Path | None) -> None:
        self.path = checkpoint
        self.copy: tempfile.TemporaryDirectory[str] | None = None
        if checkpoint is None:
            return
        sums = run_on_rank_zero(lambda: (checkpoint / SUMS).read_text())
        here = (checkpoint / SUMS).is_file() and (checkpoint / SUMS).read_text() == sums
        if all(all_gather_object(here)):
            return
        files = run_on_rank_zero(
            lambda: {name: (checkpoint / name).read_bytes() for name in [*files_of(checkpoint), SUMS]}
        )
        if here or rank() == 0:
            return
        self.copy = tempfile.TemporaryDirectory(prefix="neuralchat-")
        self.path = Path(self.copy.name) / checkpoint.name
        for name, content in files.items():
            make_directory((self.path / name).parent)
            write_new_file(self.path / name, content)


def restore_metrics(output: Path, checkpoint: Path | None) -> None:
    """Give OUTPUT/metrics.jsonl the lines of the checkpoint, so that each step done again has one line; or none."""
    kept = read_metrics(checkpoint) if checkpoint is not None else []
    if kept or (output / METRICS).exists():
        write_file(output / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
