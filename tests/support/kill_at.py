"""Processes that kill themselves, by SIGKILL, at a chosen call of a chosen place."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuralchat.checkpointing import checkpointer, state_file
from neuralchat.checkpointing import store as checkpoints
from neuralchat.training import callbacks, held_out, loop, step


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(work: Callable[..., Any], count: Callable[[], bool]) -> Callable[..., Any]:
    def wrapped(*words: Any, **named: Any) -> Any:
        if count():
            die()
        return work(*words, **named)

    return wrapped


def after(work: Callable[..., Any], count: Callable[[], bool]) -> Callable[..., Any]:
    def wrapped(*words: Any, **named: Any) -> Any:
        result = work(*words, **named)
        if count():
            die()
        return result

    return wrapped


def half_deleted(work: Callable[..., Any], count: Callable[[], bool]) -> Callable[..., Any]:
    """Dies when the first file of a directory is gone and the others are not."""

    def wrapped(path: Any, *words: Any, **named: Any) -> Any:
        files = [p for p in Path(path).rglob("*") if p.is_file()]
        if files and count():
            files[0].unlink()
            die()
        return work(path, *words, **named)

    return wrapped


def half_written(work: Callable[..., Any], count: Callable[[], bool]) -> Callable[..., Any]:
    def wrapped(path: Path, content: bytes) -> Any:
        if count():
            path.write_bytes(content[: len(content) // 2])
            die()
        return work(path, content)

    return wrapped


def half_a_line(_work: Callable[..., Any], count: Callable[[], bool]) -> Callable[..., Any]:
    def wrapped(self: Any, line: dict[str, Any]) -> None:
        text = json.dumps(line) + "\n"
        dying = count()
        with self.metrics_file.open("a", encoding="utf-8") as stream:
            stream.write(text[: len(text) // 2] if dying else text)
        if dying:
            die()

    return wrapped


# place -> (owner, name, how it dies)
PLACES: dict[str, tuple[Any, str, Any]] = {
    "forward": (step, "causal_packed_sums", before),
    "backward": (step, "causal_packed_sums", after),
    "step done": (loop, "rng_state", before),
    "evaluation": (held_out, "micro_batch_sums", before),
    "log": (callbacks.MetricsWriter, "write", half_a_line),
    "save begins": (checkpointer, "write_checkpoint", before),
    "save state": (state_file, "write_new_file", half_written),
    "hash": (checkpoints, "file_sha256", before),
    "sync": (checkpoints, "settle_file", before),
    "rename": (os, "rename", before),
    "renamed": (os, "rename", after),
    "retention": (shutil, "rmtree", half_deleted),
    "retained": (checkpointer, "keep_newest", after),
    "result": (os, "replace", before),
}


def arm(place: str, call: int) -> None:
    """Die at call number `call` (from 1) of `place`."""
    calls = 0

    def count() -> bool:
        nonlocal calls
        calls += 1
        return calls == call

    install(place, count)


def count_all(tally: Path) -> None:
    """Die nowhere; write to `tally` how often each place is come by."""
    calls = dict.fromkeys(PLACES, 0)

    def counter(place: str) -> Callable[[], bool]:
        def count() -> bool:
            calls[place] += 1
            tally.write_text(json.dumps(calls))
            return False

        return count

    for place in PLACES:
        install(place, counter(place))


def install(place: str, count: Callable[[], bool]) -> None:
    owner, name, how = PLACES[place]
    replacement = how(getattr(owner, name), count)
    setattr(owner, name, replacement)
