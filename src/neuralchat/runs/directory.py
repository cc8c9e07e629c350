"""What a finished run holds on disk: its names, where it may be written, and reading what others have written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from neuralchat.console.terminal import VISIBLE
from neuralchat.errors import RunDirectoryError, problem_list, system_error_line
from neuralchat.files import kind_of_mode, make_directory, read_file, remove_file, remove_tree
from neuralchat.paths import nearest_path
from neuralchat.secrets import without_remembered

MANIFEST = "neuralchat.json"
METRICS = "metrics.jsonl"
REPORT = "report.html"
# Figures of `neuralchat eval` (kept_evaluation.py).
EVALUATION = "evaluation.json"
ADAPTER = "adapter_model.safetensors"
# What stands in the adapter's place after full fine-tuning.
WHOLE_MODEL = "model.safetensors"
# What decides the result of a run, in each of its checkpoints.
IDENTITY = "checkpoint.json"
# Held by the run that writes to the directory; it may stay behind.
LOCK = ".neuralchat.lock"
# Names that belong to a run; only these are deleted by --overwrite_output_dir.
RUN_FILES = (
    MANIFEST,
    METRICS,
    REPORT,
    EVALUATION,
    ADAPTER,
    WHOLE_MODEL,
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "README.md",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
)


# A manifest holds a few answers, metrics a line for each logging step.
MAX_MANIFEST_BYTES, MAX_METRICS_BYTES = 16 << 20, 1 << 30

TEXT, NUMBER, TEXT_OR_NONE, NUMBER_OR_NONE = (str,), (int, float), (str, type(None)), (int, float, type(None))
# Part of the manifest -> what it must hold, and of which type.
NEEDED_VALUES: dict[str, dict[str, tuple[type, ...]]] = {
    "base_model": {"name": TEXT},
    "template": {"name": TEXT},
    "adapter": {"method": TEXT},
    "results": {},
}
# The same for what may be left out.
OTHER_VALUES: dict[str, dict[str, tuple[type, ...]]] = {
    "base_model": {
        "path": TEXT_OR_NONE,
        "config_name": TEXT_OR_NONE,
        "revision": TEXT_OR_NONE,
        "cache_dir": TEXT_OR_NONE,
    },
    "template": {"sha256": TEXT},
    "precision": {"storage": TEXT, "bits": (int, type(None))},
    "results": {
        "samples": (list,),
        "general_samples": (list,),
        "advice": (list,),
        "steps": (int,),
        "mean_loss": NUMBER_OR_NONE,
        "best_step": (int, type(None)),
        "best_metric": NUMBER_OR_NONE,
        "held_out_loss_before": NUMBER_OR_NONE,
        "held_out_loss_after": NUMBER_OR_NONE,
        "seconds": NUMBER,
        "training_seconds": NUMBER,
        "tokens_per_s": NUMBER,
        "peak_memory_mb": NUMBER,
        "rouge": (dict, type(None)),
        "differences": (dict, type(None)),
        "micro_batch_tokens": (int,),
        "data_findings": (dict, type(None)),
        "forecast": (dict, type(None)),
        "slowdowns": (list,),
    },
}


def nearest_existing(path: Path) -> Path:
    """The path itself, or the closest of its parents that is there and may be looked at."""
    return next(p for p in (path, *path.absolute().parents) if os.path.exists(p))


def why_unwritable(path: Path) -> str | None:
    """Why neither a file nor a directory can be written at `path`; None if one can. Creates nothing."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"{path} is a link that leads nowhere"
    place = nearest_existing(path)
    if place != path and not place.is_dir():
        return f"{place} is a file"
    if not os.access(place, os.W_OK | os.X_OK if place.is_dir() else os.W_OK):
        return f"no permission to write to {place}"
    return None


def check_output_directory(path: Path, *, overwrite: bool, resume: bool) -> None:
    """Raise RunDirectoryError unless a run may be written to `path`. Creates and deletes nothing."""
    try:
        if os.path.exists(path) and not os.path.isdir(path):
            raise RunDirectoryError(f"--output_dir {path} is a file; give a directory")
        if reason := why_unwritable(path):
            raise RunDirectoryError(f"--output_dir {path} cannot be written: {reason}")
        if not path.exists():
            return
        if not overwrite and not resume and any(p.name != LOCK for p in path.iterdir()):
            raise RunDirectoryError(
                f"--output_dir {path} is not empty; choose another, replace its run with --overwrite_output_dir, "
                "or go on with it by --resume_from_checkpoint auto"
            )
        problems = [*misplaced(path), *(undeletable(path) if overwrite else ())]
    except OSError as error:
        raise RunDirectoryError(f"--output_dir {path} cannot be used: {error.strerror or error}") from error
    if problems:
        title = f"--output_dir {path} cannot be written; move away what is in the way of the run's own files:"
        raise RunDirectoryError(problem_list(title, problems))


def misplaced(path: Path) -> Iterator[str]:
    """What stands where the run would write something of another kind, and is not ours to delete."""
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        mode = entry.stat(follow_symlinks=False).st_mode
        is_directory = entry.is_dir(follow_symlinks=False)
        if entry.name in (*RUN_FILES, LOCK) and is_directory:
            yield f"{entry.name} is a directory, not a file"
        elif is_checkpoint_name(entry.name) and not is_directory:
            yield f"{entry.name} is {kind_of_mode(mode)}, not a directory"


def undeletable(path: Path) -> Iterator[str]:
    """Checkpoints that cannot be replaced, told before the rest of their run is gone."""
    for checkpoint in checkpoints(path):
        if not os.access(checkpoint, os.R_OK | os.W_OK | os.X_OK):
            yield f"{checkpoint.name}: no permission to delete what is in it"


def prepare_output_directory(path: Path, *, overwrite: bool) -> None:
    """Create the directory; with `overwrite`, delete the files of an earlier run and nothing else."""
    try:
        make_directory(path)
        if not overwrite:
            return
        for name in RUN_FILES:
            remove_file(path / name)
        for checkpoint in checkpoints(path):
            remove_tree(checkpoint)
    except OSError as error:
        raise RunDirectoryError(f"--output_dir {path} cannot be written: {system_error_line(error)}") from error


def is_deleted_by_overwriting(output: Path, read: Path) -> bool:
    """Whether `prepare_output_directory` with `overwrite` would delete `read`, or files of a model that it is."""
    # Those of os.path take any name.
    if not os.path.isdir(output) or not os.path.exists(read):
        return False
    place, within = output.resolve(), read.resolve()
    if within == place:
        return True
    inside = within.relative_to(place).parts if within.is_relative_to(place) else ()
    return bool(inside) and (is_checkpoint_name(inside[0]) or (len(inside) == 1 and inside[0] in RUN_FILES))


def is_checkpoint_name(name: str) -> bool:
    return name.startswith("checkpoint-") and name.removeprefix("checkpoint-").isdecimal()


def checkpoints(path: Path) -> list[Path]:
    """Directories checkpoint-N, oldest step first; what is a link to one is none of the run's."""
    found = [p for p in path.glob("checkpoint-*") if is_checkpoint_name(p.name) and p.is_dir() and not p.is_symlink()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished run. Raises RunDirectoryError, saying what is missing."""
    if not path.is_dir():
        raise RunDirectoryError(why_no_directory(path))
    try:
        manifest = json.loads(read_file(path / MANIFEST, MAX_MANIFEST_BYTES).decode("utf-8"))
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise RunDirectoryError(f"{path / MANIFEST} cannot be read: {error.strerror}") from error
        found = checkpoints(path)
        hint = f" Its training has not finished; its newest checkpoint is {found[-1]}." if found else ""
        raise RunDirectoryError(f"{path} is not a finished run: it has no {MANIFEST}.{hint}") from None
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path / MANIFEST} is damaged: {error}") from error
    if not isinstance(manifest, dict):
        raise RunDirectoryError(f"{path / MANIFEST} is damaged: it holds no names and values")
    missing = [key for key in ("base_model", "template", "adapter", "results") if key not in manifest]
    if missing:
        raise RunDirectoryError(f"{path / MANIFEST} lacks {', '.join(missing)}")
    check_values(path / MANIFEST, manifest)
    return manifest


def why_no_directory(path: Path) -> str:
    """What to tell of a run that is no directory."""
    if not os.path.lexists(path):
        near = nearest_path(path)
        return f"run directory {path} does not exist" + (f"; did you mean {near}?" if near else "")
    where = path.parent
    hint = f"that of this file is {where}" if (where / MANIFEST).is_file() else "give the --output_dir of a run"
    return f"{path} is {kind_of_mode(os.lstat(path).st_mode)}, not a run directory; {hint}"


def check_values(path: Path, manifest: dict[str, Any]) -> None:
    """Raise RunDirectoryError for a part or a value of the manifest that has another type than ours."""
    for part in NEEDED_VALUES.keys() | OTHER_VALUES.keys():
        values = manifest.get(part, {})
        if not isinstance(values, dict):
            raise RunDirectoryError(f"{path} is damaged: {part} must hold names and values, found {kind(values)}")
        needed, other = NEEDED_VALUES.get(part, {}), OTHER_VALUES.get(part, {})
        for name, types in {**needed, **other}.items():
            if name not in values and name not in needed:
                continue
            value = values.get(name)
            # JSON's true and false are no numbers; text must be such that a path or a message can hold it.
            good = isinstance(value, types) and not isinstance(value, bool)
            if isinstance(value, str) and not is_plain(value):
                good = False
            if not good:
                raise RunDirectoryError(f"{path} is damaged: {part}.{name} cannot be {kind(value)}")
    names, marks = ("question", "before", "after"), ("right_before", "right_after")
    for part in ("samples", "general_samples"):
        samples = manifest["results"].get(part, [])
        texts = all(isinstance(s, dict) and all(isinstance(s.get(name), str) for name in names) for s in samples)
        if not texts or not all(isinstance(s.get(mark, False), bool) for s in samples for mark in marks):
            raise RunDirectoryError(
                f"{path} is damaged: results.{part} must be questions with answers before and after"
            )
    if not all(isinstance(text, str) and is_plain(text) for text in manifest["results"].get("advice", [])):
        raise RunDirectoryError(f"{path} is damaged: results.advice must be sentences")


def series(metrics: Iterable[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of each line of the metrics that has a finite number under `key`."""
    return [(m["step"], m[key]) for m in metrics if m.get(key) is not None and math.isfinite(m[key])]


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """JSON as it is kept: readable in any script, and nothing in it that a terminal obeys. Known secrets are masked.

    What JSON need not write as \\uXXXX, and a terminal heeds or text is reordered by, is written so.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    escapes = {code: f"\\u{code:04x}" for code in VISIBLE if code >= 0x7F}
    return without_remembered(text.translate(escapes)) + "\n"


def is_plain(text: str) -> bool:
    return len(text) <= 4096 and not any(c == "\0" or "\ud800" <= c < "\ue000" for c in text)


def kind(value: Any) -> str:
    if value is None:
        return "null"
    return (
        f"{type(value).__name__} {ascii(value)[:40]}" if isinstance(value, str | int | float) else type(value).__name__
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a crash cut short is left out."""
    file = path / METRICS
    try:
        lines = read_file(file, MAX_METRICS_BYTES).splitlines() if file.exists() else []
    except OSError as error:
        raise RunDirectoryError(f"{file} cannot be read: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            found.append(value)
        elif number < len(lines):
            raise RunDirectoryError(f"{file} is damaged at line {number}")
    return found
