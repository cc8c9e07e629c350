"""Whoever reaches the port where ranks meet: what they send is no message of ours, and nothing waits for ever."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from support.forks import end_of, fork
from support.ranks import environment, free_port, said
from support.runs import ROWS, digest

ESCAPE = "\x1b]0;pwned\x07\u202e"
OBEYED = ("\x1b", "\x07", "\x9b", "\u202e")
FLAGS = [
    "--num_train_epochs", "3", "--per_device_train_batch_size", "2", "--report_samples", "0", "--save_strategy", "no",
    "--peer_timeout", "8", "--preflight_timeout", "20", "--keep_general", "false",
]  # fmt: skip


class Bench:
    def __init__(self, directory: Path, model: Path) -> None:
        self.directory = directory
        self.port = free_port()
        (directory / "records.json").write_text(json.dumps(ROWS))
        words = ["finetune", "--model_name_or_path", str(model), "--train_file", "records.json", "--output_dir", "run"]
        self.words = [*words, *FLAGS]

    def start(self, rank: int, size: int = 2, log: str = "", prepare: Callable[[], None] = lambda: None) -> Any:
        log = log or f"log-{rank}"
        return fork(self.words, self.directory, self.directory / log, prepare, environment(rank, size, self.port))

    def said(self) -> str:
        text = said(self.directory)
        assert "Traceback" not in text, text
        assert not [byte for byte in OBEYED if byte in text]
        return text


@pytest.fixture
def bench(tmp_path: Path, llama_checkpoint: Path) -> Bench:
    return Bench(tmp_path, llama_checkpoint)


class Stranger(threading.Thread):
    """Connects to the port again and again until it is told to leave, and sends what is none of torch's words."""

    SENT = (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 1000, b"\xff" * 5000, bytes(range(256)) * 20)

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.leaving = threading.Event()
        self.connections: list[socket.socket] = []

    def run(self) -> None:
        number = 0
        while not self.leaving.wait(0.02):
            try:
                connection = socket.create_connection(("127.0.0.1", self.port), timeout=1)
                connection.sendall(self.SENT[number % len(self.SENT)])
            except OSError:
                continue
            number += 1
            # Half of them stay open.
            if number % 2:
                connection.close()
            else:
                self.connections.append(connection)


def test_noise_at_the_port_costs_nothing(bench: Bench) -> None:
    quiet = [bench.start(rank) for rank in range(2)]
    assert [end_of(child, timeout=120) for child in quiet] == [0, 0], bench.said()
    expected = digest(bench.directory / "run")
    (bench.directory / "run").rename(bench.directory / "quiet")
    bench.port = free_port()
    stranger = Stranger(bench.port)
    stranger.start()
    children = [bench.start(rank) for rank in range(2)]
    statuses = [end_of(child, timeout=120) for child in children]
    stranger.leaving.set()
    assert statuses == [0, 0], bench.said()
    assert len(stranger.connections) > 3
    assert digest(bench.directory / "run") == expected


def odd_host() -> None:
    socket.gethostname = lambda: ESCAPE


def test_a_host_whose_name_a_terminal_would_obey(bench: Bench) -> None:
    child = bench.start(1, size=3, prepare=odd_host)
    other = bench.start(0, size=3, prepare=odd_host)
    bench.words[bench.words.index("--preflight_timeout") + 1] = "4"
    assert {end_of(child, timeout=120), end_of(other, timeout=120)} == {4}
    assert "1 of 3 ranks did not come within" in bench.said()


@pytest.mark.parametrize("value", [f"failed: {ESCAPE}".encode(), b"failed: \xff\xfe\x9b2J", b"\xff"], ids=repr)
def test_words_of_a_stranger_are_shown_spelled_out(bench: Bench, value: bytes) -> None:
    """It may end a run, which goes on from its checkpoint; it does not reach the terminal."""
    bench.words[bench.words.index("--num_train_epochs") + 1] = "4000"
    children = [bench.start(rank) for rank in range(2)]
    deadline = time.monotonic() + 60
    while not (bench.directory / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    store = dist.TCPStore("127.0.0.1", bench.port, is_master=False, timeout=timedelta(seconds=10))
    theirs = dist.PrefixStore("neuralchat/0", store)
    asked = False
    # Rank 1's own signs of life overwrite it.
    while any(child.exitcode is None for child in children) and time.monotonic() < deadline:
        try:
            theirs.set("alive/1", value)
        except Exception:
            break
        if value == b"\xff" and not asked:
            time.sleep(1)
            children[0].terminate()
            # A second time would stop it at once.
            asked = True
        time.sleep(0.01)
    statuses = [end_of(child, timeout=60) for child in children]
    text = bench.said()
    if value == b"\xff":
        assert statuses == [143, 143], text
    else:
        assert 4 in statuses
        assert "rank 1 on" in text
        assert "has ended: " in text
