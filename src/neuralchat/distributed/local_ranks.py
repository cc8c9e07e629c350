"""--num_processes: this command starts the processes of one machine itself, through torch's launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, MutableMapping, Sequence
from types import FrameType
from typing import Any

import psutil

from neuralchat.console import put
from neuralchat.distributed.hardware import Machine, read_machine
from neuralchat.distributed.launchers import LOCALHOST, read_world
from neuralchat.errors import ArgumentsError
from neuralchat.secrets import hand_down, handed_down, without_secret_words

# A rank that finds this in its environment was started here.
STARTED_HERE = "NEURALCHAT_LOCAL_RANKS"
# Those that torch's launcher handles (TORCHELASTIC_SIGNALS_TO_HANDLE), and the one that is handed on here.
LAUNCHERS_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
# Seconds that ranks have to end after a second signal.
LAST_SECONDS = 5.0


def words_of_rank(words: Sequence[str], environ: MutableMapping[str, str]) -> list[str]:
    """The words of this command, with what was left out of them when it was started here."""
    return [*words, *handed_down(environ)] if STARTED_HERE in environ else list(words)


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
    """One process per NUMA node: its threads and its memory stay together."""
    return max(1, min(len(machine.nodes), machine.threads))


def start_local_ranks(words: Sequence[str], *, prog: str, num_processes: int, grace: float) -> int:
    """Start the same command `num_processes` times and wait for all; returns the exit status.

    Each rank writes to this terminal itself. A signal is handed on once, so a second Ctrl-C is a second one. `grace`:
    seconds that ranks have to end after a signal; after the failure of one, torch's launcher gives the others 30.
    """
    # Everybody on the machine can read the words of a process, its owner alone the environment.
    words, secrets = without_secret_words(words)
    hand_down(secrets, os.environ)
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

    def run(self, size: int) -> int:
        from neuralchat.models.compat.torch_elastic import (
            ChildFailedError,
            LaunchConfig,
            SignalException,
            elastic_launch,
        )

        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=size,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{LOCALHOST}:0",
            local_addr=LOCALHOST,
            max_restarts=0,
            shutdown_timeout=max(1, round(self.grace)),
        )
        os.environ[STARTED_HERE] = str(size)
        # The launcher takes signals too, and never gives them back.
        before = {number: signal.getsignal(number) for number in LAUNCHERS_SIGNALS}
        signal.signal(signal.SIGUSR1, hand_on)
        # The ranks have told what is wrong; a table of exit codes would only hide it.
        logged = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            elastic_launch(config, self.command[0])(*self.command[1:])
            return 0
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            return status_of(rank, failure.exitcode)
        except SignalException as error:
            # A second signal interrupts the launcher's own waiting.
            end_what_is_left()
            return 128 + error.sigval
        finally:
            logging.disable(logged)
            for number, handler in before.items():
                signal.signal(number, handler)
            del os.environ[STARTED_HERE]


def ranks_here() -> list[psutil.Process]:
    return psutil.Process().children()


def hand_on(number: int, _frame: FrameType | None) -> None:
    for rank in ranks_here():
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.send_signal(number)


def end_what_is_left() -> None:
    ranks: list[Any] = ranks_here()
    for end in ("terminate", "kill"):
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(rank, end)()
        _, ranks = psutil.wait_procs(ranks, timeout=LAST_SECONDS)


def status_of(rank: int, code: int) -> int:
    """The exit status for a rank's exit code, which is minus the signal that ended it."""
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    hint = "; the system may have run out of memory" if -code == signal.SIGKILL else ""
    put(f"error: rank {rank} was ended by {name}{hint}", sys.stderr)
    return 128 - code
