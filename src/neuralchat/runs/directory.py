"""What a finished run holds on disk, and writing it so that a file is whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from neuralchat.errors import RunDirectoryError

MANIFEST = "neuralchat.json"
METRICS = "metrics.jsonl"
REPORT = "report.html"
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
    "precision": {"storage": TEXT},
    "results": {
        "samples": (list,),
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
    },
}


def write_atomically(path: Path, text: str) -> None:
    """Write beside, sync, rename: a reader sees the old file or the new one, never half of it."""
    beside = path.with_name(f".{path.name}.writing")
    # Undecodable bytes of a path become \\udcxx, which JSON reads back.
    write_bytes_synced(beside, text.encode("utf-8", "backslashreplace"))
    beside.replace(path)
    sync_directory(path.parent)


def write_bytes_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_file(path: Path) -> None:
    """Wait until what was written to `path` is on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_directory(path: Path) -> None:
    """Wait until names created, renamed or deleted in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def nearest_existing(path: Path) -> Path:
    """The path itself, or the closest of its parents that is there and may be looked at."""
    return next(p for p in (path, *path.absolute().parents) if os.path.exists(p))


def why_unwritable(path: Path) -> str | None:
    """Why neither a file nor a directory can be written at `path`; None if one can. Creates nothing."""
    place = nearest_existing(path)
    if place != path and not place.is_dir():
        return f"{place} is a file"
    if not os.access(place, os.W_OK | os.X_OK if place.is_dir() else os.W_OK):
        return f"no permission to write to {place}"
    return None


def check_output_directory(path: Path, *, overwrite: bool, resume: bool) -> None:
    """Raise RunDirectoryError unless a run may be written to `path`. Creates and deletes nothing."""
    if os.path.exists(path) and not os.path.isdir(path):
        raise RunDirectoryError(f"--output_dir {path} is a file; give a directory")
    if reason := why_unwritable(path):
        raise RunDirectoryError(f"--output_dir {path} cannot be written: {reason}")
    if path.exists() and any(p.name != LOCK for p in path.iterdir()) and not overwrite and not resume:
        raise RunDirectoryError(
            f"--output_dir {path} is not empty; choose another, replace its run with --overwrite_output_dir, "
            "or go on with it by --resume_from_checkpoint auto"
        )


def prepare_output_directory(path: Path, *, overwrite: bool) -> None:
    """Create the directory; with `overwrite`, delete the files of an earlier run and nothing else."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"--output_dir {path} cannot be written: {error.strerror}") from error
    if not overwrite:
        return
    for name in RUN_FILES:
        (path / name).unlink(missing_ok=True)
    for checkpoint in checkpoints(path):
        shutil.rmtree(checkpoint)


def checkpoints(path: Path) -> list[Path]:
    """Directories checkpoint-N, oldest step first."""
    found = [p for p in path.glob("checkpoint-*") if p.is_dir() and p.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished run. Raises RunDirectoryError, saying what is missing."""
    if not path.is_dir():
        raise RunDirectoryError(f"run directory {path} does not exist")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
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
    samples = manifest["results"].get("samples", [])
    names = ("question", "before", "after")
    if not all(isinstance(s, dict) and all(isinstance(s.get(name), str) for name in names) for s in samples):
        raise RunDirectoryError(f"{path} is damaged: results.samples must be questions with answers before and after")


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
        lines = file.read_bytes().splitlines() if file.exists() else []
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
