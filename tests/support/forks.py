"""Runs of the real command in forked processes.

A fork of a process that has only imported things starts in a tenth of a second; what it then does is the command.
Work that is to be done inside travels as cloudpickle, since tests write it as functions within functions.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import cloudpickle

from neuralchat import cli

# Forks come from a process that has imported and done nothing: one that has computed has threads, which a fork loses.
PRELOADED = [
    "neuralchat.training.finetune", "neuralchat.inference.chatbot", "neuralchat.export.merge",
    "neuralchat.evaluation.facts", "neuralchat.models.layers.fused_lora", "peft", "support.kill_at",
    "transformers.models.llama.modeling_llama", "transformers.models.mpt.modeling_mpt",
    "transformers.models.t5.modeling_t5", "torch.distributed", "neuralchat.inference.server.serving",
    "support.machine.rehearsed",
]  # fmt: skip
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([*PRELOADED, "support.forks"])
# The server imports this module last: what it has loaded by then.
MODULES_OF_THE_SERVER = frozenset(sys.modules)
Process = multiprocessing.context.ForkServerProcess


@contextmanager
def environment_of_the_server() -> Iterator[None]:
    """The server reads its import path from PYTHONPATH alone, and the libraries their verbosity when imported."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    cli.quiet_environment()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def start_server() -> None:
    """Before anything else of this process asks for a fork server, which would be started without our import path."""
    with environment_of_the_server():
        forkserver.ensure_running()


@dataclass(frozen=True)
class Streams:
    """Files that stand for the standard streams of a child; output is appended."""

    stdout: Path
    stderr: Path
    stdin: Path = Path(os.devnull)

    def take_over(self) -> None:
        """Make them the streams of this process."""
        appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        for number, path, mode in (
            (0, self.stdin, os.O_RDONLY),
            (1, self.stdout, appending),
            (2, self.stderr, appending),
        ):
            os.dup2(os.open(path, mode), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115


def nothing() -> None:
    pass


def fork(
    words: Sequence[str], directory: Path, log: Path, prepare: Callable[[], None] = nothing,
    environ: dict[str, str] | None = None,
) -> Process:  # fmt: skip
    """`neuralchat WORDS` in a fork, in `directory`, its output in `log`, after `prepare` there."""
    return start(lambda: cli.main(list(words)), directory, Streams(log, log), prepare, environ)


def start(
    command: Callable[[], int], directory: Path, streams: Streams, prepare: Callable[[], None] = nothing,
    environ: dict[str, str] | None = None,
) -> Process:  # fmt: skip
    """`command` in a fork; its exit status is what `command` returns."""
    environ = {**os.environ, **(environ or {})}
    start_server()
    child = FORKS.Process(target=work, args=(cloudpickle.dumps((prepare, command)), directory, streams, environ))
    child.start()
    return child


def work(todo: bytes, directory: Path, streams: Streams, environ: dict[str, str]) -> None:
    """What the forked process does; it never returns."""
    status = 70
    try:
        os.setpgid(0, 0)
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(directory)
        streams.take_over()
        # What a fresh interpreter starts its own processes by; a child of a fork server would start another server.
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
        # The fork server ignores Ctrl-C, and its children after it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare, command = cloudpickle.loads(todo)
        prepare()
        status = command()
    except SystemExit as end:
        status = status_of(end)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        # A test may have closed them.
        with suppress(ValueError, OSError):
            sys.stdout.flush()
        with suppress(ValueError, OSError):
            sys.stderr.flush()
        os._exit(status)


def status_of(end: SystemExit) -> int:
    """As the interpreter does it: a text is printed and means 1."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def end_of(child: Process, timeout: float | None = None) -> int:
    """Its exit status, or minus the signal that ended it; past `timeout` seconds it is killed with all it started."""
    child.join(timeout)
    if child.exitcode is None:
        os.killpg(child.pid or 0, signal.SIGKILL)
        child.join()
        raise TimeoutError(f"the command did not end within {timeout} seconds")
    return child.exitcode


def run_forked(words: Sequence[str], directory: Path, log: Path, prepare: Callable[[], None] = nothing) -> int:
    return end_of(fork(words, directory, log, prepare))


def run_script(path: Path, words: Sequence[str]) -> int:
    """`python PATH WORDS` within this process."""
    sys.argv = [str(path), *words]
    runpy.run_path(str(path), run_name="__main__")
    return 0


def run_captured(
    words: Sequence[str], directory: Path, *, script: Path | None = None, stdin: str | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`neuralchat WORDS`, or `python SCRIPT WORDS`, in a fork, as `subprocess.run` with captured output gives it."""
    words = list(words)
    command = (lambda: run_script(script, words)) if script else (lambda: cli.main(words))
    with tempfile.TemporaryDirectory() as place:
        streams = Streams(*(Path(place) / name for name in ("stdout", "stderr", "stdin")))
        streams.stdin.write_text(stdin or "", encoding="utf-8")
        status = end_of(start(command, directory, streams), timeout)
        stdout, stderr = (path.read_text(encoding="utf-8") for path in (streams.stdout, streams.stderr))
    return subprocess.CompletedProcess(words, status, stdout, stderr)


def run_fresh(
    words: Sequence[str], directory: Path, *, script: Path | None = None, stdin: str | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter of its own."""
    program = [str(script)] if script else ["-m", "neuralchat.cli"]
    return subprocess.run(
        [sys.executable, *program, *words], input=stdin, capture_output=True, text=True, cwd=directory, check=False,
        timeout=timeout,
    )  # fmt: skip
