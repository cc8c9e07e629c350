"""Faults that a long run meets, each done to a run in its own process at a chosen moment.

A fault is done by `strike` within the run, and undone by `mend` from outside when the run has ended. It may end as:

    GOES_ON  exit status 0
    SAVED    a stop that was asked for: the last finished step is saved, and the message names where
    ENDS     the newest checkpoint that was due before is whole, and the message says why
    KILLED   by SIGKILL: it says nothing
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from neuralchat import files
from support import kill_at
from support.kill_at import PLACES

GOES_ON, SAVED, ENDS, KILLED = "goes on", "saved", "ends", "killed"
# Where a fault may strike, of those of kill_at.py: before each of these calls.
MOMENTS = (
    "forward",
    "backward",
    "step done",
    "evaluation",
    "log",
    "save begins",
    "sync",
    "rename",
    "retained",
    "result",
)


@dataclass(frozen=True)
class Place:
    """`run`: the output directory. It lies on `disk`, which is a file system of its own where this user may mount one.

    `draw`: a number from 0 to 1 that is free to decide something.
    """

    work: Path
    draw: float = 0.5

    @property
    def disk(self) -> Path:
        return self.work / "disk"

    @property
    def run(self) -> Path:
        return self.disk / "run"


def nothing(_place: Place) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """`ends`: how the run may end. `says`: what it must have said then, unless it goes on. `flags`: for this run."""

    name: str
    strike: Callable[[Place], None]
    ends: tuple[str, ...]
    says: str = ""
    mend: Callable[[Place], None] = nothing
    flags: tuple[str, ...] = ()
    mounts: bool = False
    moments: tuple[str, ...] = MOMENTS


def arm(fault: Fault, place: Place, moment: str, call: int) -> None:
    """Let `fault` strike at call number `call` (from 1) of a moment of this process, once training has begun."""
    calls = 0

    def strike() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            fault.strike(place)

    # The tests themselves may run under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    watch({moment: strike})


def count_calls(tally: Path) -> None:
    """Write to `tally` how often this process comes by each moment once training has begun."""
    calls = dict.fromkeys(MOMENTS, 0)

    def counter(moment: str) -> Callable[[], None]:
        def count() -> None:
            calls[moment] += 1
            tally.write_text(json.dumps(calls))

        return count

    watch({moment: counter(moment) for moment in MOMENTS})


def watch(works: dict[str, Callable[[], None]]) -> None:
    """Do the work of each moment whenever this process comes by it; training has begun with its first step."""
    has_begun = False

    def begins() -> None:
        nonlocal has_begun
        has_begun = True

    for moment in dict.fromkeys(("step done", *works)):
        owner, name, how = PLACES[moment]
        true_work = getattr(owner, name)

        def watched(*words: Any, moment: str = moment, true_work: Any = true_work, how: Any = how, **named: Any) -> Any:
            work = works.get(moment, lambda: None) if has_begun else lambda: None
            if moment == "step done":
                begins()
            if how is kill_at.after:
                found = true_work(*words, **named)
                work()
                return found
            work()
            return true_work(*words, **named)

        setattr(owner, name, watched)


# Signals and processes


def sends(*numbers: int) -> Callable[[Place], None]:
    def strike(_place: Place) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return strike


def hang_up(_place: Place) -> None:
    """A terminal that is closed: the shell and the kernel both say so, and nobody reads any more."""
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)
    unread_pipe(1)


def suspend(_place: Place) -> None:
    subprocess.Popen(["sh", "-c", f"sleep 0.4; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


def kill_a_data_worker(_place: Place) -> None:
    workers = [child for child in psutil.Process().children() if "resource_tracker" not in " ".join(child.cmdline())]
    # Those of an epoch end with its last step.
    for worker in workers[:1]:
        worker.kill()


def oversubscribe(place: Place) -> None:
    """Others compute on every core, and this run is left one."""
    for _ in range(2 * (os.cpu_count() or 1)):
        subprocess.Popen(
            ["timeout", "4", sys.executable, "-c", "while True: pass"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


# Disks


def mount_disk(place: Place) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place.disk)], check=True)


def unmount_disk(place: Place) -> None:
    for path in (place.run, place.disk):
        while os.path.ismount(path):
            subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill_disk(place: Place) -> None:
    with suppress(OSError), (place.disk / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def empty_disk(place: Place) -> None:
    (place.disk / "filler").unlink()


def mount_read_only(place: Place) -> None:
    """What is open stays open; whoever looks the names up comes to a file system that takes nothing."""
    subprocess.run(["mount", "--bind", str(place.run), str(place.run)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(place.run)], check=True)


def unmount_read_only(place: Place) -> None:
    subprocess.run(["umount", "--lazy", str(place.run)], check=True)


def cap_file_size(_place: Place) -> None:
    """No file may be larger than a kilobyte: what a full disk or a quota is to whoever cannot mount one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))


def vanish(place: Place) -> None:
    place.run.rename(place.work / "away")


def come_back(place: Place) -> None:
    shutil.rmtree(place.run, ignore_errors=True)
    (place.work / "away").rename(place.run)


def failing_sync(number: int) -> Callable[[Place], None]:
    """Network file systems tell of a full quota, a lost server or a stale handle when they are asked to sync."""

    def strike(place: Place) -> None:
        true_sync = os.fsync

        def sync(descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(place.run)):
                raise OSError(number, os.strerror(number))
            true_sync(descriptor)

        os.fsync = sync

    return strike


def failing_metrics(number: int) -> Callable[[Place], None]:
    """Some writes fail, then it is well again."""

    def strike(place: Place) -> None:
        true_open, until = files.open_own, time.monotonic() + 0.02

        def failing(path: Path, *words: Any, **named: Any) -> int:
            if path.name == "metrics.jsonl" and time.monotonic() < until:
                raise OSError(number, os.strerror(number), str(path))
            return true_open(path, *words, **named)

        files.open_own = failing

    return strike


def unread_pipe(*streams: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for stream in streams:
        os.dup2(writer, stream)


def streams_end(place: Place) -> None:
    """The reader of one stream or of both ends, or the disk of the log is full."""
    streams = ((1,), (2,), (1, 2))[int(place.draw * 3)]
    if place.draw * 100 % 2 < 1:
        unread_pipe(*streams)
        return
    full = os.open("/dev/full", os.O_WRONLY)
    for stream in streams:
        os.dup2(full, stream)


def close_streams(_place: Place) -> None:
    sys.stdout.close()
    sys.stderr.close()


def lose_cache(_place: Place) -> None:
    for entry in Path(os.environ["NEURALCHAT_HOME"]).iterdir():
        shutil.rmtree(entry)


def lose_temporary_directory(place: Place) -> None:
    os.environ["TMPDIR"] = str(place.work / "not there")


# Clocks and memory


def jump(seconds: float) -> Callable[[Place], None]:
    def strike(_place: Place) -> None:
        true_time, true_ns = time.time, time.time_ns
        time.time = lambda: true_time() + seconds
        time.time_ns = lambda: true_ns() + int(seconds * 1e9)

    return strike


def swap_out(_place: Place) -> None:
    """The kernel takes every page of this process that it can, as when another needs the memory."""
    library, advice = ctypes.CDLL(None, use_errno=True), getattr(mmap, "MADV_PAGEOUT", 21)
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        library.madvise(start, end - start, advice)


def memory_runs_out(_place: Place) -> None:
    raise torch.OutOfMemoryError("out of memory")


STOPPED = "all is saved in"
WORKERS = ("--dataloader_num_workers", "2")
FAULTS = (
    Fault("SIGHUP", hang_up, (SAVED,), STOPPED),
    Fault("SIGTERM", sends(signal.SIGTERM), (SAVED,), STOPPED),
    Fault("SIGTERM and SIGHUP of a session's end", sends(signal.SIGTERM, signal.SIGHUP), (SAVED,), STOPPED),
    Fault("SIGKILL", sends(signal.SIGKILL), (KILLED,)),
    Fault("SIGUSR1", sends(signal.SIGUSR1), (GOES_ON,)),
    Fault("suspended", suspend, (GOES_ON,)),
    Fault("a data worker is killed", kill_a_data_worker, (GOES_ON,), flags=WORKERS, moments=("step done",)),
    Fault("cores are oversubscribed", oversubscribe, (GOES_ON,)),
    Fault("full disk of the output", fill_disk, (GOES_ON, ENDS), "is full", empty_disk, mounts=True),
    Fault(
        "read-only remount", mount_read_only, (GOES_ON, ENDS), "Read-only file system", unmount_read_only, mounts=True
    ),
    # The log may not grow either.
    Fault("files may grow no more", cap_file_size, (GOES_ON, ENDS)),
    Fault("directory vanishes", vanish, (GOES_ON, ENDS), "is gone", come_back),
    Fault("quota", failing_sync(errno.EDQUOT), (GOES_ON, ENDS), "is full"),
    Fault("stale handle", failing_sync(errno.ESTALE), (GOES_ON, ENDS), "Stale file handle"),
    Fault("input or output error", failing_sync(errno.EIO), (GOES_ON, ENDS), "Input/output error"),
    Fault("metrics fail for a while", failing_metrics(errno.ETIMEDOUT), (GOES_ON,)),
    Fault("full or unread log", streams_end, (GOES_ON,)),
    Fault("standard streams are closed", close_streams, (GOES_ON,)),
    Fault("cache is wiped", lose_cache, (GOES_ON,)),
    Fault("temporary directory vanishes", lose_temporary_directory, (GOES_ON,)),
    Fault("clock jumps back a year", jump(-86400 * 365.0), (GOES_ON,)),
    Fault("clock jumps forward a year", jump(86400 * 365.0), (GOES_ON,)),
    Fault("swapped out", swap_out, (GOES_ON,)),
    Fault("memory runs out", memory_runs_out, (ENDS,), "memory ran out at step", moments=("forward",)),
)
