"""Runs of the real command in forked processes that kill themselves, by SIGKILL, at a chosen call of a chosen place.

A fork of a process that has only imported things starts in a tenth of a second; what it then does is the command.
Work that is to be done inside travels as cloudpickle, since tests write it as functions within functions.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing.context
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from neuralchat import cli
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
    "forward": (step, "packed_loss_sum", before),
    "backward": (step, "packed_loss_sum", after),
    "step done": (loop, "rng_state", before),
    "evaluation": (held_out, "loss_sums", before),
    "log": (callbacks.MetricsWriter, "write", half_a_line),
    "save begins": (checkpointer, "write_checkpoint", before),
    "save state": (state_file, "write_bytes_synced", half_written),
    "hash": (checkpoints, "file_sha256", before),
    "sync": (checkpoints, "sync_file", before),
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


# Forks come from a process that has imported and done nothing: one that has computed has threads, which a fork loses.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["neuralchat.training.finetune", "neuralchat.inference.chatbot", "neuralchat.models.layers.fused_lora",
     "peft", "support.kill_at", "transformers.models.llama.modeling_llama", "torch.distributed"]
)  # fmt: skip
Process = multiprocessing.context.ForkServerProcess


def nothing() -> None:
    pass


def fork(
    words: list[str], directory: Path, log: Path, prepare: Callable[[], None] = nothing,
    environ: dict[str, str] | None = None,
) -> Process:  # fmt: skip
    """`neuralchat WORDS` in a fork, in `directory`, its output in `log`, after `prepare` there."""
    environ = {**os.environ, **(environ or {})}
    child = FORKS.Process(target=work, args=(words, directory, log, cloudpickle.dumps(prepare), environ))
    child.start()
    return child


def work(words: list[str], directory: Path, log: Path, prepare: bytes, environ: dict[str, str]) -> None:
    status = 70
    try:
        os.setpgid(0, 0)
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(directory)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        # The fork server ignores Ctrl-C, and its children after it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cloudpickle.loads(prepare)()
        status = cli.main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end_of(child: Process) -> int:
    """Its exit status, or minus the signal that ended it."""
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def run_forked(words: list[str], directory: Path, log: Path, prepare: Callable[[], None] = nothing) -> int:
    return end_of(fork(words, directory, log, prepare))


def digest(run: Path) -> str:
    return hashlib.sha256((run / "adapter_model.safetensors").read_bytes()).hexdigest()


UNSTABLE = ("tokens_per_s", "seconds", "rss_mb", "eval_seconds")


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what the clock and the allocator decide."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in UNSTABLE} for line in lines]
