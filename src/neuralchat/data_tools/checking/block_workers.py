"""Blocks of rows looked at by several processes, with the results in the order of the blocks.

Each process looks at one block while the next waits in it, so that it never waits for this side: a thread takes in what
comes while another computes, and so neither side ever waits for the other to read. When the command ends, however it
ends, the pipes close and with them the processes.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, TypeVar

from neuralchat.errors import NeuralChatError

Given = TypeVar("Given")
Worked = TypeVar("Worked")

# Fewer blocks are looked at sooner than processes are started.
BLOCKS_IN_ONE_PROCESS = 3
# Results are taken in order: with one block each, who is done first would wait for the slowest.
BLOCKS_EACH = 2
MOST_PROCESSES = 16


def process_count() -> int:
    """As many as there are cores for this process."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def results_in_order(work: Callable[[Given], Worked], blocks: Iterator[Given], processes: int) -> Iterator[Worked]:
    """`work` of each block; a function or functools.partial that can be pickled where there are several processes.

    What it raises is raised here. NeuralChatError where a process dies.
    """
    first = list(islice(blocks, BLOCKS_IN_ONE_PROCESS))
    if processes <= 1 or len(first) < BLOCKS_IN_ONE_PROCESS:
        yield from map(work, chain(first, blocks))
        return
    context = multiprocessing.get_context("spawn")
    workers: list[Worker] = []
    busy: deque[Worker] = deque()
    try:
        for block in chain(first, blocks):
            if len(busy) < processes * BLOCKS_EACH:
                if len(workers) < processes:
                    workers.append(Worker(context, work))
                worker = workers[len(busy) % processes]
                worker.give(block)
                busy.append(worker)
                continue
            worker = busy.popleft()
            result = worker.take()
            worker.give(block)
            busy.append(worker)
            yield result
        while busy:
            yield busy.popleft().take()
    finally:
        for worker in workers:
            worker.end()


class Worker:
    """One process, with a pipe to it."""

    def __init__(self, context: Any, work: Callable[[Any], Any]) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=answer_blocks, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, block: object) -> None:
        try:
            self.pipe.send(block)
        except OSError as error:
            raise self.death() from error

    def take(self) -> Any:
        try:
            is_well, result = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self.death() from error
        if not is_well:
            raise result
        return result

    def death(self) -> NeuralChatError:
        self.process.join(timeout=5)
        return NeuralChatError(
            f"a process that looks at rows has ended (exit status {self.process.exitcode}); where memory is short, "
            "use fewer: --processes 1"
        )

    def end(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def answer_blocks(pipe: Any, work: Callable[[Any], Any]) -> None:
    """In the new process: results for blocks until the pipe is closed."""
    # Ctrl-C ends the command, and that ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nothing of a block refers to itself.
    gc.disable()
    blocks: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=take_in, args=(pipe, blocks), daemon=True).start()
    while (block := blocks.get()) is not None:
        try:
            answer = (True, work(block))
        except Exception as error:  # it is raised where the result is taken
            answer = (False, error)
        try:
            pipe.send(answer)
        except OSError:
            return


def take_in(pipe: Any, blocks: SimpleQueue[Any]) -> None:
    """Blocks as they come; None after the last of them."""
    try:
        while True:
            blocks.put(pipe.recv())
    except (EOFError, OSError):
        # The command needs no more of them.
        return
    finally:
        blocks.put(None)
