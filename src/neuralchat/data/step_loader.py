"""The shares of optimizer steps in their order, computed here or read ahead by processes.

Each process has pipes of its own and shares no lock, so one that is killed in the midst of whatever it does leaves
nothing that others wait for. (torch's DataLoader has an event and a queue for all its workers: where one dies holding
the lock of either, training waits for ever.)
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import torch

from neuralchat.console import note
from neuralchat.data.step_shares import StepShare, StepShares
from neuralchat.errors import DataError, system_error_line

# Of processes in a row before the same step.
MOST_DEATHS = 3
# They reach all processes of a terminal, but the one that trains decides when it ends.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# Shares that each process has ready, where nothing is said: as many as torch's loaders. And at most: their numbers must
# fit in a pipe, since a process that waits to send an answer takes none out of it.
DEFAULT_PREFETCH, MOST_PREFETCH = 2, 1024
# How long an answer may let wait before that is told, and how often it is looked for.
PATIENCE_S, LOOK_S = 30.0, 1.0


class ReaderDiedError(Exception):
    """A process that read ahead is gone."""


class Reader:
    """A process that computes the shares it is asked for, in that order. It is forked, so it has a copy of `shares`.

    `others`: those that live already, whose ends of pipes it must not hold open. Raises OSError where the system gives
    no process or no pipe.
    """

    def __init__(self, shares: StepShares, others: Sequence[Reader | NoReader]) -> None:
        context = multiprocessing.get_context("fork")
        numbers, self.numbers = context.Pipe(duplex=False)
        self.answers, answers = context.Pipe(duplex=False)
        ends = [end for reader in (*others, self) for end in reader.ends()]
        self.process = context.Process(target=read_shares, args=(shares, numbers, answers, ends), daemon=True)
        # Until it ignores them, see read_shares.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            self.process.start()
        except OSError:
            for end in (numbers, answers, *self.ends()):
                end.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # Held by the process alone, so that its death is the end of both.
        numbers.close()
        answers.close()
        self.asked: deque[int] = deque()

    def ends(self) -> tuple[Connection, ...]:
        """Of its pipes, those that the process that trains holds."""
        return self.numbers, self.answers

    def ask(self, step: int) -> None:
        self.asked.append(step)
        # Of one that has died the answer tells it.
        with suppress(BrokenPipeError):
            self.numbers.send(step)

    def next_share(self) -> StepShare:
        """That of the first step in `asked`. Raises ReaderDiedError, and what reading the records has raised."""
        self.await_answer()
        try:
            share = self.answers.recv()
        except (EOFError, OSError) as error:
            raise ReaderDiedError from error
        self.asked.popleft()
        if isinstance(share, Exception):
            raise share
        return share

    def await_answer(self) -> None:
        """Until there is one, or the end. A process that stays stopped is killed: its answer may be half sent."""
        began, moved, is_told = time.monotonic(), time.monotonic(), False
        while (stopped := is_stopped(self.process.pid)) or not self.answers.poll(LOOK_S):
            now = time.monotonic()
            if not stopped:
                moved = now
                if now - began > PATIENCE_S and not is_told:
                    note(f"waiting for process {self.process.pid}, which reads step {self.asked[0] + 1} ahead")
                    is_told = True
            elif now - moved > PATIENCE_S:
                note(f"process {self.process.pid}, which reads ahead, stays stopped (SIGSTOP)")
                self.process.kill()
                return
            else:
                time.sleep(LOOK_S / 10)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.numbers.close()
        self.answers.close()


class NoReader:
    """Stands where no process can be started: what is asked for is computed when it is due."""

    def __init__(self, shares: StepShares) -> None:
        self.shares = shares
        self.asked: deque[int] = deque()

    def ends(self) -> tuple[Connection, ...]:
        return ()

    def ask(self, step: int) -> None:
        self.asked.append(step)

    def next_share(self) -> StepShare:
        return self.shares[self.asked.popleft()]

    def kill(self) -> None:
        """There is nothing to kill."""


def new_reader(shares: StepShares, others: Sequence[Reader | NoReader]) -> Reader | NoReader:
    try:
        return Reader(shares, others)
    except OSError as error:
        note(
            f"no process that reads ahead can be started: {system_error_line(error)}; the one that trains reads in its "
            "place, which changes no result (--dataloader_num_workers 0 asks for none)"
        )
        return NoReader(shares)


def is_stopped(pid: int | None) -> bool:
    """Whether the process stands still since a SIGSTOP or Ctrl-Z; False where the system does not say."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] == b"T"
    return False


def read_shares(shares: StepShares, numbers: Connection, answers: Connection, ends: Sequence[Connection]) -> None:
    """What the process does until nobody asks any more, which is also when the one that trains is gone."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    torch.set_num_threads(1)
    for end in ends:
        end.close()
    with suppress(EOFError, OSError):
        while True:
            step = numbers.recv()
            try:
                answer: Any = shares[step]
            except Exception as error:
                answer = sendable(error)
            answers.send(answer)


def sendable(error: Exception) -> Exception:
    """`error`, or one of its words where another process could not make it again."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def kill_all(readers: list[Reader | NoReader]) -> None:
    while readers:
        readers.pop().kill()


class StepLoader:
    """`workers`: processes that read ahead, with `prefetch` shares ready each. `persistent`: they outlive a pass."""

    def __init__(
        self, shares: StepShares, *, workers: int = 0, persistent: bool = False, prefetch: int | None = None
    ) -> None:
        self.shares = shares
        self.workers, self.persistent = workers, persistent
        self.prefetch = min(prefetch or DEFAULT_PREFETCH, MOST_PREFETCH)
        self.readers: list[Reader | NoReader] = []
        # They ignore the signal by which a program that ends takes leave of its children, and it would wait for them.
        Finalize(self, kill_all, args=(self.readers,), exitpriority=0)

    def set_micro_batch_tokens(self, micro_batch_tokens: int) -> None:
        """From the next pass on. Processes have copies of the shares, made when they start: others replace them."""
        self.shares.micro_batch_tokens = micro_batch_tokens
        kill_all(self.readers)

    def steps(self, first: int, end: int) -> Iterator[StepShare]:
        """The shares of optimizer steps [first, end). Takes one number from torch's generator, as torch's loaders do.

        A process that is killed is replaced; raises DataError where that happens again and again.
        """
        torch.empty((), dtype=torch.int64).random_()
        return self.read_ahead(first, end) if self.workers else (self.shares[step] for step in range(first, end))

    def read_ahead(self, first: int, end: int) -> Iterator[StepShare]:
        # Of a pass that was left before its end, answers are on their way still.
        if any(reader.asked for reader in self.readers):
            kill_all(self.readers)
        while len(self.readers) < self.workers:
            self.readers.append(new_reader(self.shares, self.readers))
        try:
            for place in range(self.workers):
                self.ask_ahead(place, first + place, end)
            for step in range(first, end):
                place = (step - first) % self.workers
                share = self.share_of(place, step, end)
                self.ask_ahead(place, step + self.workers, end)
                yield share
        finally:
            if not self.persistent:
                kill_all(self.readers)

    def ask_ahead(self, place: int, step: int, end: int) -> None:
        """A reader is asked for every so many-th step, from `step` on, as far as it may be ahead."""
        asked = self.readers[place].asked
        for later in range(step, min(end, step + self.prefetch * self.workers), self.workers):
            if not asked or later > asked[-1]:
                self.readers[place].ask(later)

    def share_of(self, place: int, step: int, end: int) -> StepShare:
        deaths = 0
        while True:
            try:
                return self.readers[place].next_share()
            except ReaderDiedError as error:
                deaths += 1
                if deaths > MOST_DEATHS:
                    raise DataError(
                        f"the processes that read ahead are killed again and again before step {step + 1}; is memory "
                        "short? --dataloader_num_workers 0 does without them"
                    ) from error
            note("a process that read ahead was killed; another takes its place")
            self.readers.pop(place).kill()
            self.readers.insert(place, new_reader(self.shares, self.readers))
            self.ask_ahead(place, step, end)
