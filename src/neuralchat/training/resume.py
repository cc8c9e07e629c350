"""Which checkpoint a run goes on from, and what of the metrics file still holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from neuralchat.errors import RunDirectoryError
from neuralchat.run_directory import ADAPTER, checkpoints, read_metrics, write_atomically

AUTO = ("auto", "true", "latest")
STATE_FILES = ("optimizer.pt", "scheduler.pt", "trainer_state.json")


def missing_files(checkpoint: Path, weights: str) -> list[str]:
    return [name for name in (weights, *STATE_FILES) if not (checkpoint / name).is_file()]


def asks_to_resume(value: str | None) -> bool:
    """Whether a value of --resume_from_checkpoint means to resume at all."""
    return value is not None and value.lower() != "false"


def checkpoint_to_resume(
    value: str | None, output: Path, say: Callable[[str], None], *, weights: str = ADAPTER
) -> Path | None:
    """The checkpoint meant by --resume_from_checkpoint: None, a path, or with "auto" the newest whole one.

    `weights`: the file of what is trained, an adapter or the whole model. Raises RunDirectoryError where there is none
    or the named one is not whole.
    """
    if value is None or not asks_to_resume(value):
        return None
    if value.lower() not in AUTO:
        chosen = Path(value)
        if not chosen.is_dir():
            raise RunDirectoryError(f"--resume_from_checkpoint {value} is not a directory")
        if missing := missing_files(chosen, weights):
            raise RunDirectoryError(f"checkpoint {chosen} is not whole: it lacks {', '.join(missing)}")
        return chosen
    for candidate in reversed(checkpoints(output)):
        missing = missing_files(candidate, weights)
        if not missing:
            say(f"going on from {candidate}")
            return candidate
        say(f"{candidate} is passed over: it lacks {', '.join(missing)}")
    raise RunDirectoryError(f"--resume_from_checkpoint {value}: there is no whole checkpoint in {output}")


def trim_metrics(metrics: Path, checkpoint: Path) -> None:
    """Drop the lines of steps that will be done again."""
    if not metrics.exists():
        return
    step = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
    kept = [line for line in read_metrics(metrics.parent) if line["step"] <= step]
    write_atomically(metrics, "".join(json.dumps(line) + "\n" for line in kept))
