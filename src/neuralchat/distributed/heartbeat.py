"""Signs of life between ranks, beside the collectives: who is missing is named, and nothing waits for ever.

Each rank counts up a key of its own in the store that all share. A rank whose count stands still, or that leaves with
an error, ends the others, which a collective alone would leave waiting.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from neuralchat.console import warn_of_rank
from neuralchat.errors import EXIT_DISTRIBUTED

BEAT_SECONDS = 1.0
DONE = "done"
FAILED = "failed: "


class PeerWatch(threading.Thread):
    """`connect`: a store of this thread's own, since a store serves one caller at a time. `hosts`: one a rank."""

    def __init__(self, connect: Callable[[], Any], *, rank: int, hosts: Sequence[str], timeout: float) -> None:
        super().__init__(name="peer watch", daemon=True)
        self.connect = connect
        self.rank = rank
        self.hosts = list(hosts)
        self.timeout = timeout
        self.beat = min(BEAT_SECONDS, timeout / 4)
        self.leaving = threading.Event()
        self.last_exchange = time.monotonic()
        # rank -> (count last seen, when it was first seen)
        self.seen: dict[int, tuple[str, float]] = {}

    def run(self) -> None:
        """Judge, while another thread exchanges: a store that is cut off may never answer."""
        exchanger = threading.Thread(target=self.exchange_always, name="peer exchange", daemon=True)
        exchanger.start()
        while not self.leaving.wait(self.beat):
            if reason := self.failure():
                # The others may be about to tell the same themselves.
                if not self.leaving.wait(2 * self.beat):
                    self.end(reason)
                return

    def exchange_always(self) -> None:
        count = 0
        store = None
        while not self.leaving.wait(self.beat):
            count += 1
            try:
                store = store or self.connect()
                self.exchange(store, count)
                self.last_exchange = time.monotonic()
            except Exception:  # whatever the library raises, the store does not answer
                store = None

    def exchange(self, store: Any, count: int) -> None:
        store.set(f"alive/{self.rank}", str(count))
        keys = [f"alive/{rank}" for rank in range(len(self.hosts))]
        now = time.monotonic()
        for rank, value in enumerate(store.multi_get(keys)):
            # Whoever reaches the store may write to it.
            text = value.decode(errors="replace")
            if rank not in self.seen or self.seen[rank][0] != text:
                self.seen[rank] = (text, now)

    def failure(self) -> str | None:
        """Why this rank cannot go on, or None."""
        now = time.monotonic()
        if now - self.last_exchange > self.timeout:
            silence = f"its store has not answered for {self.timeout:.0f} s (--peer_timeout)"
            return f"rank 0 on {self.hosts[0]} is lost: {silence}"
        for rank, (text, since) in self.seen.items():
            if text.startswith(FAILED):
                return f"rank {rank} on {self.hosts[rank]} has ended: {text.removeprefix(FAILED)}"
            if rank != self.rank and text != DONE and now - since > self.timeout:
                return (
                    f"rank {rank} on {self.hosts[rank]} has given no sign of life for {self.timeout:.0f} s "
                    "(--peer_timeout): the process, its machine or the network is gone"
                )
        return None

    def lost_ranks(self) -> dict[int, str]:
        """Ranks that are not there any more, found out within a few beats, and what they said at their end."""
        start = time.monotonic()
        while time.monotonic() - start < 4 * self.beat:
            time.sleep(self.beat / 4)
            gone = {rank: text.removeprefix(FAILED) for rank, (text, _) in self.seen.items() if text.startswith(FAILED)}
            if gone:
                return gone
        return {
            rank: ""
            for rank, (text, since) in self.seen.items()
            if rank != self.rank and text != DONE and time.monotonic() - since > 2.5 * self.beat
        }

    def end(self, reason: str) -> None:
        warn_of_rank(
            f"{reason}. Go on from the last checkpoint with the same launch and --resume_from_checkpoint auto."
        )
        # The main thread may be inside a collective that nothing else can wake.
        os._exit(EXIT_DISTRIBUTED)

    def leave(self, store: Any, error: BaseException | None) -> None:
        """Say that this rank is done, or what it has failed with, so that the others need not find out."""
        self.leaving.set()
        if self.is_alive():
            self.join(timeout=2 * self.beat)
        text = (str(error).strip() or type(error).__name__).splitlines()[0] if error else ""
        try:
            store.set(f"alive/{self.rank}", f"{FAILED}{text}" if error else DONE)
        except Exception:  # the store is gone already
            return


def connect_store(host: str, port: int, *, serve: bool, timeout: float) -> Any:
    """A TCPStore of torch that waits for nobody but its server."""
    return dist.TCPStore(
        host, port, is_master=serve, timeout=timedelta(seconds=timeout), wait_for_workers=False, multi_tenant=True
    )
