"""Shares come in the plan's order whoever computes them, and whatever happens to the processes that read ahead."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from support.packed import numbered_examples
from torch.utils.data import DataLoader

from neuralchat.data import step_loader
from neuralchat.data.batch_plan import BatchPlan
from neuralchat.data.layout import Layout
from neuralchat.data.step_loader import Reader, StepLoader, is_stopped
from neuralchat.data.step_shares import StepShare, StepShares
from neuralchat.errors import DataError


def shares_of(count: int, kind: type[StepShares] = StepShares, *, length: int = 3) -> StepShares:
    plan = BatchPlan("f", (length,) * count, seed=1, units_per_step=4)
    examples = numbered_examples([length] * count)
    return kind(examples, plan, rank=0, world_size=1, micro_batch_tokens=10 * length, layout=Layout())


def sources(share: StepShare) -> list[tuple[str, ...]]:
    return [batch.sources for batch in share.packed]


def wait_for(is_so: Callable[[], bool], *, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [0, 2])
def test_order_does_not_depend_on_workers(workers: int) -> None:
    """Every epoch has an order of its own, the plan's, also with workers that live on over epochs."""
    shares = shares_of(12)
    plan = shares.plan
    loader = StepLoader(shares, workers=workers, persistent=bool(workers))
    orders = []
    for epoch in (0, 1):
        first = epoch * plan.steps
        found = loader.steps(first, first + plan.steps)
        orders.append([sorted(batch.sources) for share in found for batch in share.packed])
        expected = [sorted(f"row {i}" for unit in plan.step(epoch, step) for i in unit) for step in range(plan.steps)]
        assert orders[-1] == expected
    assert orders[0] != orders[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_smaller_micro_batches_hold_from_the_next_pass_on(workers: int) -> None:
    """Workers that live on over epochs, too, have the new size."""
    plan = BatchPlan("f", (6,) * 4, seed=1, units_per_step=4)
    shares = StepShares(numbered_examples([6] * 4), plan, rank=0, world_size=1, micro_batch_tokens=24, layout=None)
    loader = StepLoader(shares, workers=workers, persistent=bool(workers))
    assert [share.micro_batches for share in loader.steps(0, 1)] == [1]
    loader.set_micro_batch_tokens(12)
    assert [share.micro_batches for share in loader.steps(1, 2)] == [2]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_pass_draws_what_a_loader_of_torch_draws(persistent: bool) -> None:
    """Runs that were begun with one go on to the bit."""
    torch.manual_seed(3)
    list(DataLoader([1, 2], batch_size=None))
    expected = torch.rand(1)
    for workers in (0, 1):
        loader = StepLoader(shares_of(8), workers=workers, persistent=persistent)
        for _ in range(2):
            torch.manual_seed(3)
            list(loader.steps(0, 2))
            assert torch.rand(1) == expected


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_end_with_their_pass_or_live_on(persistent: bool) -> None:
    loader = StepLoader(shares_of(16), workers=2, persistent=persistent)
    known = []
    for _ in range(2):
        shares = loader.steps(0, 4)
        next(shares)
        known.append([reader.process.pid for reader in loader.readers])
        list(shares)
        assert len(loader.readers) == (2 if persistent else 0)
    assert (known[0] == known[1]) is persistent
    if not persistent:
        assert not any(psutil.pid_exists(pid) for pids in known for pid in pids)


def test_more_may_be_asked_for_ahead_than_a_pipe_holds() -> None:
    """While nobody reads answers, a process that sends them takes no more numbers."""
    shares = shares_of(40_000)
    found = StepLoader(shares, workers=2, prefetch=20_000).steps(0, shares.plan.steps)
    assert [sources(next(found)) for _ in range(3)] == [sources(shares[step]) for step in range(3)]


def test_a_pass_that_is_left_is_not_mixed_up_with_the_next() -> None:
    loader = StepLoader(shares_of(16), workers=2, persistent=True)
    left = loader.steps(0, 4)
    next(left)
    assert [sources(share) for share in loader.steps(1, 3)] == [sources(loader.shares[1]), sources(loader.shares[2])]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_worker_that_is_killed_is_replaced(persistent: bool, said: list[str]) -> None:
    """No share is left out or given twice, and no random number is drawn that an undisturbed run does not draw."""
    orders, randoms = [], []
    for victim in (None, 0, 1):
        shares = shares_of(48)
        loader, order = StepLoader(shares, workers=2, persistent=persistent, prefetch=1), []
        torch.manual_seed(3)
        for number, share in enumerate(loader.steps(0, shares.plan.steps)):
            order.append(sources(share))
            if number == 3 and victim is not None:
                loader.readers[victim].process.kill()
        orders.append(order)
        randoms.append(torch.rand(1).item())
    assert len(orders[0]) == 12
    assert orders[1] == orders[2] == orders[0]
    assert len(set(randoms)) == 1
    assert len([text for text in said if "was killed" in text]) == 2


@pytest.mark.parametrize("both", [False, True])
def test_workers_that_are_killed_in_the_midst_of_an_answer_are_replaced(both: bool) -> None:
    """An answer that no pipe holds is half sent for as long as nobody reads it."""
    shares = shares_of(32, length=50_000)
    loader = StepLoader(shares, workers=2)
    found = loader.steps(0, 8)
    order = [sources(next(found))]

    def is_sending(reader: Reader) -> bool:
        return reader.answers.poll() and psutil.Process(reader.process.pid).status() == psutil.STATUS_SLEEPING

    for reader in loader.readers[: 1 + both]:
        wait_for(lambda reader=reader: is_sending(reader))
        reader.process.kill()
        reader.process.join()
    order += [sources(share) for share in found]
    assert order == [sources(shares[step]) for step in range(8)]


class Deadly(StepShares):
    def __getitem__(self, index: int) -> StepShare:
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_workers_that_are_killed_again_and_again_end_it() -> None:
    with pytest.raises(DataError, match="before step 3; is memory short\\? --dataloader_num_workers 0"):
        list(StepLoader(shares_of(12, Deadly), workers=2).steps(0, 3))


class Unreadable(StepShares):
    def __getitem__(self, index: int) -> StepShare:
        if index == 1:
            raise DataError("line 7 of a.json is gone")
        return super().__getitem__(index)


def test_what_reading_raises_is_raised_where_it_is_asked_for() -> None:
    loader = StepLoader(shares_of(12, Unreadable), workers=2)
    shares = loader.steps(0, 3)
    next(shares)
    with pytest.raises(DataError, match=r"line 7 of a\.json is gone"):
        next(shares)
    assert loader.readers == []


class OddError(Exception):
    """Of words that it is not made from, and of a thing that stays where it is."""

    def __init__(self, name: str, line: int) -> None:
        super().__init__(f"{name}:{line} is gone")
        self.lock = threading.Lock()


class OddlyUnreadable(StepShares):
    def __getitem__(self, index: int) -> StepShare:
        raise OddError("a.json", 7)


def test_an_error_that_cannot_be_sent_comes_as_its_words() -> None:
    with pytest.raises(RuntimeError, match=r"OddError: a\.json:7 is gone"):
        next(StepLoader(shares_of(12, OddlyUnreadable), workers=1).steps(0, 3))


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_where_no_process_can_be_started_the_one_that_trains_reads(
    refused: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, or when one that was killed is replaced (2): memory, or a limit on processes, may be short."""
    may_start, start = iter(range(refused)), ForkProcess.start

    def start_or_refuse(process: ForkProcess) -> None:
        if next(may_start, None) is None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        start(process)

    monkeypatch.setattr(ForkProcess, "start", start_or_refuse)
    shares = shares_of(48)
    # Those of earlier tests close with their loaders.
    gc.collect()
    open_before = len(os.listdir("/proc/self/fd"))
    order = []
    loader = StepLoader(shares, workers=2, prefetch=1)
    for number, share in enumerate(loader.steps(0, shares.plan.steps)):
        order.append(sources(share))
        if number == 3 and refused == 2:
            loader.readers[0].process.kill()
    assert order == [sources(shares[step]) for step in range(shares.plan.steps)]
    told = [text for text in said if "no process that reads ahead can be started: Cannot allocate memory" in text]
    assert len(told) == max(1, 2 - refused)
    assert len(os.listdir("/proc/self/fd")) == open_before


@pytest.mark.parametrize("length", [3, 50_000])
def test_a_worker_that_stays_stopped_is_told_and_replaced(
    length: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of the longer ones is half sent when its process is stopped."""
    monkeypatch.setattr(step_loader, "PATIENCE_S", 0.2)
    shares = shares_of(32, length=length)
    loader = StepLoader(shares, workers=2, prefetch=1)
    found = loader.steps(0, 8)
    order = [sources(next(found))]
    wait_for(lambda: all(reader.answers.poll() for reader in loader.readers))
    pid = loader.readers[1].process.pid
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(pid))
    order += [sources(share) for share in found]
    assert order == [sources(shares[step]) for step in range(8)]
    assert f"process {pid}, which reads ahead, stays stopped (SIGSTOP)" in said


def test_a_worker_that_is_stopped_for_a_moment_goes_on(said: list[str]) -> None:
    """As by Ctrl-Z, after which the one that trains may be the first to go on."""
    shares = shares_of(32)
    loader = StepLoader(shares, workers=1, prefetch=1)
    found = loader.steps(0, 8)
    order = [sources(next(found))]
    pid = loader.readers[0].process.pid
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(pid))
    threading.Timer(0.3, os.kill, (pid, signal.SIGCONT)).start()
    order += [sources(share) for share in found]
    assert order == [sources(shares[step]) for step in range(8)]
    assert not said


class Slow(StepShares):
    def __getitem__(self, index: int) -> StepShare:
        time.sleep(0.3)
        return super().__getitem__(index)


def test_a_worker_that_lets_wait_is_told(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_loader, "PATIENCE_S", 0.1)
    monkeypatch.setattr(step_loader, "LOOK_S", 0.05)
    loader = StepLoader(shares_of(12, Slow), workers=1)
    shares = loader.steps(0, 1)
    next(shares)
    assert said == [f"waiting for process {loader.readers[0].process.pid}, which reads step 1 ahead"]


SIGNALLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def test_workers_leave_signals_to_the_process_that_trains() -> None:
    shares = shares_of(32)
    loader = StepLoader(shares, workers=2, prefetch=1)
    found = loader.steps(0, 8)
    order = [sources(next(found))]
    # The second has hardly begun.
    for reader in loader.readers:
        for number in SIGNALLED:
            os.kill(reader.process.pid, number)
    before = [reader.process.pid for reader in loader.readers]
    order += [sources(next(found)) for _ in range(6)]
    assert order == [sources(shares[step]) for step in range(7)]
    assert [reader.process.pid for reader in loader.readers] == before


# Numbers in the place of shares.
PROGRAM = """
import sys
from neuralchat.data.step_loader import StepLoader
loader = StepLoader(range(16), workers=2, persistent=True)
shares = loader.steps(0, 4)
next(shares)
print(*(reader.process.pid for reader in loader.readers), flush=True)
if sys.argv[1] == "wait":
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["wait", "end"])
def test_workers_end_with_the_program(how: str) -> None:
    """Killed, or at its end in the midst of a pass."""
    command = [sys.executable, "-c", PROGRAM, how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        workers = [int(word) for word in program.stdout.readline().split()]
        assert len(workers) == 2
        if how == "wait":
            program.kill()
        assert program.wait(60) == (-signal.SIGKILL if how == "wait" else 0)
        wait_for(lambda: not any(map(psutil.pid_exists, workers)))


def test_a_slow_worker_that_is_stopped_for_a_moment_is_no_worker_that_stays_stopped(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, states = iter(range(0, 10_000, 20)), iter([False, False, False, True, False])
    monkeypatch.setattr(step_loader, "is_stopped", lambda _pid: next(states, False))
    monkeypatch.setattr(step_loader.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(step_loader.time, "sleep", lambda _seconds: None)
    answers = iter([False, False, False, False, True])
    reader: Any = object.__new__(Reader)
    reader.answers = SimpleNamespace(poll=lambda _seconds: next(answers))
    reader.process = SimpleNamespace(pid=7, kill=lambda: pytest.fail("it was killed"))
    reader.asked = deque([3])
    reader.await_answer()
    assert said == ["waiting for process 7, which reads step 4 ahead"]
