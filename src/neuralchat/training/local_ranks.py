"""--num_processes: this command starts the processes of one machine itself, and is a thin parent to them.

torch's own launcher is not taken: it kills ranks 30 seconds after Ctrl-C, be they saving or not, leaves them alone at
the second one, and prints a table about errors that the rank has told already.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from neuralchat.errors import EXIT_DISTRIBUTED, ArgumentsError
from neuralchat.training.hardware import Machine, read_machine
from neuralchat.training.launch_environment import LOCALHOST, TORCHELASTIC, World, export_world, read_world

# A rank that finds this in its environment was started here.
STARTED_HERE = "NEURALCHAT_LOCAL_RANKS"
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ASKED_TO_STOP = (128 + signal.SIGINT, 128 + signal.SIGTERM)
PR_SET_PDEATHSIG = 1


def wants_local_ranks(num_processes: str, environ: Mapping[str, str]) -> int:
    """How many processes this command is to start; 0 or 1: none. The value has been checked (arguments.py)."""
    if not num_processes or STARTED_HERE in environ:
        return 0
    world = read_world(environ)
    if world.size > 1:
        raise ArgumentsError(
            f"--num_processes {num_processes}: this process is one of {world.size} that {world.launcher} has started; "
            "leave the flag out, or start one process only"
        )
    return ranks_for(read_machine()) if num_processes == "auto" else int(num_processes)


def ranks_for(machine: Machine) -> int:
    """One process a NUMA node: its threads and its memory stay together."""
    return max(1, min(len(machine.nodes), machine.threads))


def start_local_ranks(words: Sequence[str], *, prog: str, num_processes: int, grace: float) -> int:
    """Start the same command `num_processes` times and wait for all; returns the exit status.

    Each rank writes to this terminal itself. Signals are handed on, each once, so a second Ctrl-C is a second one.
    `grace`: seconds that ranks have to end by themselves (and to save) after one has failed, then after SIGTERM.
    """
    return LocalRanks(command_of(words, prog), grace).run(num_processes)


def command_of(words: Sequence[str], prog: str) -> list[str]:
    """The command again: `prog` is a script (finetune_clm.py) or 'neuralchat' and its verb."""
    program = [sys.argv[0]] if prog.endswith(".py") else ["-m", "neuralchat.cli", *prog.split()[1:]]
    return [sys.executable, *program, *words]


class LocalRanks:
    """The ranks of one command while they run."""

    def __init__(self, command: Sequence[str], grace: float) -> None:
        self.command = list(command)
        self.grace = grace
        self.ranks: list[subprocess.Popen[bytes]] = []
        self.received: list[int] = []

    def run(self, size: int) -> int:
        previous = {number: signal.signal(number, self.forward) for number in FORWARDED}
        try:
            self.start(size)
            return self.wait()
        finally:
            for rank in self.ranks:
                if rank.poll() is None:
                    rank.kill()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def start(self, size: int) -> None:
        port = free_port()
        for rank in range(size):
            environ = dict(os.environ)
            export_world(World(rank, rank, size, size, "torchrun", LOCALHOST, port, 0), environ)
            environ |= {STARTED_HERE: str(size), TORCHELASTIC: f"neuralchat-{os.getpid()}"}
            earlier = list(self.received)
            # In sessions of their own, so that Ctrl-C reaches them through here alone.
            options: dict[str, Any] = {"start_new_session": True, "preexec_fn": end_with_parent()}
            self.ranks.append(subprocess.Popen(self.command, env=environ, **options))
            for number in earlier:
                self.ranks[-1].send_signal(number)

    def forward(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        for rank in self.ranks:
            rank.send_signal(number)

    def wait(self) -> int:
        """Until all have ended. One that fails by itself ends the others, which could only wait for it."""
        failures: dict[int, int] = {}
        ended = False
        while not ended:
            ended = all(rank.poll() is not None for rank in self.ranks)
            failures |= self.failures(failures)
            if failures and not ended:
                self.end_the_others(failures)
                break
            time.sleep(0 if ended else 0.05)
        if not failures:
            codes = [int(rank.returncode) for rank in self.ranks]
            return max(code if code >= 0 else 128 - code for code in codes)
        # A rank that lost another one is the consequence, not the cause.
        return self.status_of(*min(failures.items(), key=lambda failure: failure[1] == EXIT_DISTRIBUTED))

    def end_the_others(self, failures: dict[int, int]) -> None:
        """They may end by themselves; then by SIGTERM; then they are killed."""
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            for rank in self.ranks if number else ():
                rank.send_signal(number or 0)
            patience = time.monotonic() + self.grace
            while any(rank.poll() is None for rank in self.ranks) and time.monotonic() < patience:
                time.sleep(0.05)
            # What ends because it was told to from here says nothing.
            if number is None:
                failures |= self.failures(failures)

    def failures(self, known: Mapping[int, int]) -> dict[int, int]:
        """Further ranks (and their codes) that have ended neither well nor because they were asked to."""
        return {
            position: code
            for position, rank in enumerate(self.ranks)
            if position not in known
            and (code := rank.poll()) is not None
            and code not in (0, *ASKED_TO_STOP)
            and -code not in self.received
        }

    def status_of(self, position: int, code: int) -> int:
        if code >= 0:
            return code
        name = signal.Signals(-code).name
        hint = "; the system may have run out of memory" if -code == signal.SIGKILL else ""
        print(f"error: rank {position} was ended by {name}{hint}", file=sys.stderr, flush=True)
        return 128 - code


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


def end_with_parent() -> Callable[[], None] | None:
    """What a rank does first on Linux: ask for SIGTERM if this process is killed, so that no rank is left alone."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
