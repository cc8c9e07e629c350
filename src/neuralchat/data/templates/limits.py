"""What a stranger's template may cost: limits on time, on memory and on the text it yields, each told by name.

`time_limit` holds in this process, in any thread, for all that runs as Python's own code. What a single operation can
cost, such as 9 ** (9 ** 9), is held only by `tried_in_child`, once for each template, before it is rendered here.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from neuralchat.errors import NeuralChatError, TemplateError, TemplateLimitError

# A chat template takes less than a millisecond.
RENDER_SECONDS = 5.0
MAX_RENDERED_CHARACTERS = 64 << 20
MAX_GROWTH_BYTES = 1 << 30
# How often is looked at the clock and at memory.
TICK_S = 0.05
# An exception that was lost on its way, as in a destructor, is raised again after so long.
AGAIN_S = 1.0


class TimeUpError(BaseException):
    """On its way from where the limit was met to `time_limit`; no Exception, so that nobody on the way takes it."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise TemplateLimitError where the block takes longer, or more than 1 GiB of memory. `what` begins the message.

    >>> with time_limit(5, "the chat template"):
    ...     "rendered"
    'rendered'
    """
    limit = Limit(seconds)
    watch = AlarmWatch(limit) if AlarmWatch.can_be_used() else ThreadWatch(limit)
    try:
        try:
            watch.begin()
            yield
        finally:
            watch.end()
    except limit.mark:
        watch.end()
        raise TemplateLimitError(f"{what} {limit.reason}; it is not used") from None


def check_rendered_size(text: str, what: str) -> str:
    """`text`, or TemplateLimitError where it is longer than any conversation."""
    if len(text) > MAX_RENDERED_CHARACTERS:
        raise TemplateLimitError(
            f"{what} yields {len(text):,} characters; at most {MAX_RENDERED_CHARACTERS:,} are allowed"
        )
    return text


class Limit:
    """What one block may still cost, and whether that was too little."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        # Limits may be nested: each knows its own.
        self.mark: type[BaseException] = type("TimeUp", (TimeUpError,), {})
        self.memory_at_first: int | None = None
        self.raised_at: float | None = None
        self.reason = ""

    def is_exceeded(self) -> bool:
        """Whether the block is to be left now."""
        now = time.monotonic()
        if self.raised_at is not None and now - self.raised_at < AGAIN_S:
            return False
        memory = memory_bytes()
        if self.memory_at_first is None:
            self.memory_at_first = memory
        if now >= self.deadline:
            self.reason = f"takes longer than {self.seconds:g} s"
        elif memory - self.memory_at_first > MAX_GROWTH_BYTES:
            self.reason = f"takes more than {MAX_GROWTH_BYTES >> 20} MiB of memory"
        else:
            return False
        self.raised_at = now
        return True


def memory_bytes(field: int = 1) -> int:
    """Resident (1) or mapped (0) bytes of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[field]) * resource.getpagesize()
    except OSError:
        return 0


class AlarmWatch:
    """The interval timer of the process, for its main thread: it rings within long operations too.

    Whoever had it before has it back afterwards, and is not forgotten meanwhile.
    """

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.running = False

    @staticmethod
    def can_be_used() -> bool:
        is_main = threading.current_thread() is threading.main_thread()
        # None: the handler is not Python's, and could not be put back.
        return is_main and signal.getsignal(signal.SIGALRM) is not None

    def begin(self) -> None:
        left, self.interval_before = signal.setitimer(signal.ITIMER_REAL, 0)
        self.due_before = time.monotonic() + left if left else None
        self.before: Any = signal.signal(signal.SIGALRM, self.ring)
        self.running = True
        signal.setitimer(signal.ITIMER_REAL, min(TICK_S, left or TICK_S), TICK_S)

    def ring(self, number: int, frame: FrameType | None) -> None:
        if self.due_before is not None and time.monotonic() >= self.due_before:
            self.due_before = time.monotonic() + self.interval_before if self.interval_before else None
            if callable(self.before):
                self.before(number, frame)
        if self.limit.is_exceeded():
            raise self.limit.mark

    def end(self) -> None:
        if not self.running:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        # One that has come already is met here, and not by the handler that is put back.
        self.look_up()
        signal.signal(signal.SIGALRM, self.before)
        if self.due_before is not None:
            signal.setitimer(signal.ITIMER_REAL, max(self.due_before - time.monotonic(), 1e-6), self.interval_before)
        self.running = False

    def look_up(self) -> None:
        """Python runs the handlers of signals that have come when it enters a function."""


class ThreadWatch:
    """For other threads: one thread looks after the limits of all and raises the exception where it is due."""

    lock = threading.Lock()
    watched: dict[int, tuple[Limit, int]] = {}  # noqa: RUF012
    watcher: threading.Thread | None = None
    process = 0

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.thread = threading.get_ident()

    def begin(self) -> None:
        kind = ThreadWatch
        if kind.process != os.getpid():
            # A fork has the limits of its parent's threads, and neither the threads nor a lock that can be relied on.
            kind.lock, kind.watched, kind.watcher, kind.process = threading.Lock(), {}, None, os.getpid()
        with kind.lock:
            kind.watched[id(self.limit)] = (self.limit, self.thread)
            if kind.watcher is None:
                kind.watcher = threading.Thread(target=kind.watch, name="neuralchat-limits", daemon=True)
                kind.watcher.start()

    @classmethod
    def watch(cls) -> None:
        while True:
            with cls.lock:
                if not cls.watched:
                    cls.watcher = None
                    return
                for limit, thread in cls.watched.values():
                    if limit.is_exceeded():
                        raise_in(thread, limit.mark)
            time.sleep(TICK_S)

    def end(self) -> None:
        with ThreadWatch.lock:
            gone = ThreadWatch.watched.pop(id(self.limit), None)
            if gone is not None and self.limit.raised_at is not None:
                # It may not have been raised yet.
                raise_in(self.thread, None)


def raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise `error` before its next instruction; None takes it back."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )


TOO_MUCH_MEMORY, DONE = 3, 0


def tried_in_child(
    work: Callable[[], Any],
    what: str,
    *,
    seconds: float = RENDER_SECONDS,
    memory: int = MAX_GROWTH_BYTES,
    error: type[NeuralChatError] = TemplateError,
) -> None:
    """Run `work` in a fork that may use so much and no more. Raises `error` where it would.

    What else is wrong with it is not told: whoever does it again meets it.
    """
    child = fork_quietly()
    if child == 0:
        status = DONE
        try:
            confine(seconds, memory)
            work()
        except MemoryError:
            status = TOO_MUCH_MEMORY
        except BaseException:
            status = DONE
        finally:
            os._exit(status)
    outcome = status_within(child, seconds)
    if outcome is None:
        raise error(f"{what} takes longer than {seconds:g} s; it is not used")
    if outcome == TOO_MUCH_MEMORY:
        raise error(f"{what} takes more than {memory >> 20} MiB of memory; it is not used")
    if outcome != DONE:
        raise error(f"{what} ends the process that tries it (status {outcome}); it is not used")


def fork_quietly() -> int:
    with warnings.catch_warnings():
        # The child runs Python's own code only, none of which waits for another thread.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        return os.fork()


def confine(seconds: float, memory: int) -> None:
    """Limit this process: it writes no file, dumps nothing, and ends by itself even if its parent is gone."""
    faulthandler.disable()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1)
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes(0) + memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, hard))
    with suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)


def status_within(child: int, seconds: float) -> int | None:
    """The exit status of a child, minus the signal that ended it; one that is late is killed, and None returned."""
    try:
        handle = os.pidfd_open(child)
        try:
            late = not select.select([handle], [], [], seconds)[0]
        finally:
            os.close(handle)
        if late:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        # Somebody else waits for all children of this process.
        return DONE
    return None if late else status
