"""local_ranks.py: --num_processes starts ranks, hands signals and exit statuses on, and leaves none behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.machine.trees import epyc, machine, write, xeon
from torch.distributed.elastic.multiprocessing.api import PContext

from neuralchat.distributed import local_ranks
from neuralchat.distributed.hardware import read_machine
from neuralchat.distributed.local_ranks import LocalRanks, command_of, ranks_for, ranks_here, wants_local_ranks
from neuralchat.errors import ArgumentsError

MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
READ_WORLD = "import os; from neuralchat.distributed.launchers import read_world; w = read_world(os.environ)\n"


@pytest.mark.parametrize(("value", "ranks"), [("", 0), ("1", 1), ("3", 3), ("auto", 4)])
def test_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, ranks: int) -> None:
    found = machine(tmp_path, epyc)
    monkeypatch.setattr(local_ranks, "read_machine", lambda: found)
    assert wants_local_ranks(value, {}) == ranks


def test_auto_is_one_process_a_node_that_can_be_used(tmp_path: Path) -> None:
    assert ranks_for(machine(tmp_path, xeon)) == 2
    assert ranks_for(read_machine(tmp_path, range(4))) == 1
    write(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000")
    assert ranks_for(read_machine(tmp_path, range(16))) == 1


def test_a_rank_starts_no_ranks() -> None:
    assert wants_local_ranks("2", {"NEURALCHAT_LOCAL_RANKS": "2", "RANK": "0", "WORLD_SIZE": "2"}) == 0


def test_two_launchers_are_one_too_many() -> None:
    with pytest.raises(ArgumentsError, match="--num_processes 2: this process is one of 2 that mpich has started"):
        wants_local_ranks("2", MPICH)
    assert wants_local_ranks("2", {**MPICH, "PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALRANKID": "0"} | {
        "MPI_LOCALNRANKS": "1"
    }) == 2  # fmt: skip


def test_the_command_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/finetune_clm.py", "ignored"])
    assert command_of(["--x", "1"], "finetune_clm.py") == [sys.executable, "/some/where/finetune_clm.py", "--x", "1"]
    module = [sys.executable, "-m", "neuralchat.cli", "finetune", "a.yaml"]
    assert command_of(["a.yaml"], "neuralchat finetune") == module


def run(code: str, size: int = 2, grace: float = 1) -> int:
    return LocalRanks([sys.executable, "-c", code], grace=grace).run(size)


@pytest.mark.slow
def test_every_rank_knows_its_place(tmp_path: Path) -> None:
    file = "open(f'{w.rank}-{w.size}-{w.local_rank}-{w.local_size}-{w.launcher}-{w.master_port}', 'w')"
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert run(READ_WORLD + file) == 0
    finally:
        os.chdir(here)
    names = sorted(path.name.rpartition("-") for path in tmp_path.iterdir())
    assert [name[0] for name in names] == ["0-2-0-2-torchrun", "1-2-1-2-torchrun"]
    assert names[0][2] == names[1][2]


@pytest.mark.slow
def test_one_task_of_mpirun_may_start_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}.items():
        monkeypatch.setenv(name, value)
    assert run(READ_WORLD + "assert (w.size, w.launcher) == (2, 'torchrun'), w") == 0


@pytest.mark.slow
def test_the_status_of_the_rank_that_failed() -> None:
    assert run("import os, time; os.environ['RANK'] == '1' and exit(3); time.sleep(60)") == 3


@pytest.mark.slow
def test_the_first_rank_that_failed_is_the_cause() -> None:
    later = "import os, time; first = os.environ['RANK'] == '1'; time.sleep(0 if first else 3); exit(5 if first else 4)"
    assert run(later, grace=20) == 5


@pytest.mark.slow
def test_a_rank_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    close = PContext.close

    def close_soon(self: PContext, death_sig: Any = None, timeout: float = 30) -> None:
        """The launcher waits 30 s before it kills."""
        close(self, death_sig, timeout=1)

    monkeypatch.setattr(PContext, "close", close_soon)
    before = ranks_here()
    deaf = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    assert run(deaf + "time.sleep(0.5 if os.environ['RANK'] == '1' else 600); exit(3)") == 3
    assert ranks_here() == before


@pytest.mark.slow
def test_logging_that_was_off_while_ranks_ran_is_on_again() -> None:
    before = logging.root.manager.disable
    assert run("pass") == 0
    assert logging.root.manager.disable == before


def test_signals_are_handled_afterwards_as_before() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    assert run("pass") == 0
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.slow
def test_a_rank_that_was_killed_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import os, signal; os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGKILL)"
    assert run(code) == 137
    assert capfd.readouterr().err == "error: rank 1 was ended by SIGKILL; the system may have run out of memory\n"
    assert run(code.replace("KILL", "SEGV")) == 139
    assert "rank 1 was ended by SIGSEGV\n" in capfd.readouterr().err


PARENT = r"""
import sys
from neuralchat.distributed.local_ranks import LocalRanks
sys.exit(LocalRanks([sys.executable, "-c", sys.argv[1]], grace=GRACE).run(2))
"""
# Ends at the first signal after a while, as one that saves; at once at the second.
RANK = r"""
import os, signal, sys, time
seen = []
def say(text): os.write(1, text.encode() + b"\n")
def note(number, _):
    seen.append(number)
    if len(seen) == 2: say("twice"); os._exit(130)
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, note)
signal.signal(signal.SIGUSR1, lambda *_: say("save"))
say(f"ready {os.getpid()}")
while not seen: time.sleep(0.01)
if os.environ["RANK"] == "0": time.sleep(SAVING)
say("saved")
sys.exit(128 + seen[0])
"""


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    while STARTED:
        STARTED.pop().kill()


def start(saving: float, grace: float = 120) -> tuple[subprocess.Popen[str], list[int]]:
    command = [sys.executable, "-c", PARENT.replace("GRACE", str(grace)), RANK.replace("SAVING", str(saving))]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    STARTED.append(parent)
    assert parent.stdout is not None
    lines = [parent.stdout.readline().split() for _ in range(2)]
    assert [line[0] for line in lines] == ["ready", "ready"]
    return parent, [int(line[1]) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_rank_once_and_saving_may_take_long(number: int) -> None:
    parent, _ = start(saving=2)
    parent.send_signal(signal.SIGUSR1)
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == ["save\n"] * 2
    parent.send_signal(number)
    output, _ = parent.communicate(timeout=60)
    assert output.split() == ["saved", "saved"]
    assert parent.returncode == 128 + number


@pytest.mark.slow
def test_a_second_signal_is_a_second_one() -> None:
    parent, ranks = start(saving=100)
    parent.send_signal(signal.SIGINT)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "saved\n"
    deadline = time.monotonic() + 30
    while not any(psutil.Process(rank).status() == psutil.STATUS_ZOMBIE for rank in ranks if psutil.pid_exists(rank)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(signal.SIGINT)
    assert parent.communicate(timeout=60)[0] == "twice\n"
    assert parent.returncode == 130


@pytest.mark.slow
def test_ranks_that_a_signal_met_too_early() -> None:
    """A rank that has no handler yet ends by the signal itself; that is what was asked for."""
    asleep = [
        sys.executable,
        "-c",
        PARENT.replace("GRACE", "5"),
        "import os, time; os.write(1, b'ready\\n'); time.sleep(60)",
    ]
    parent = subprocess.Popen(asleep, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    STARTED.append(parent)
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    parent.send_signal(signal.SIGTERM)
    assert parent.communicate(timeout=60) == ("", "")
    assert parent.returncode == 143
