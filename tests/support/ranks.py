"""Several ranks of the real command, as forked processes of this machine that meet over gloo."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from support.forks import Process, end_of, fork, nothing


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(rank: int, size: int, port: int, restarts: int = 0) -> dict[str, str]:
    """What torchrun tells a rank of one machine."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RESTART_COUNT": str(restarts),
    }  # fmt: skip


def start_ranks(
    words: list[str], directory: Path, size: int, *, prepare: dict[int, Callable[[], None]] | None = None,
    restarts: int = 0, directories: list[Path] | None = None,
) -> list[Process]:  # fmt: skip
    """`prepare`: by rank, done before the command. `directories`: where each rank works."""
    port = free_port()
    return [
        fork(
            words, (directories or [directory] * size)[rank], directory / f"log-{rank}",
            (prepare or {}).get(rank, nothing), environment(rank, size, port, restarts),
        )
        for rank in range(size)
    ]  # fmt: skip


def run_ranks(words: list[str], directory: Path, size: int, **options: object) -> list[int]:
    """Exit statuses, in the order of ranks; the logs are begun anew."""
    for log in directory.glob("log-*"):
        log.unlink()
    return [end_of(child) for child in start_ranks(words, directory, size, **options)]  # type: ignore[arg-type]


def said(directory: Path) -> str:
    return "\n".join(log.read_text() for log in sorted(directory.glob("log-*")))
