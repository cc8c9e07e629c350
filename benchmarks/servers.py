"""Servers in processes of their own, this project's and others', for benchmarks that ask over HTTP.

`python benchmarks/servers.py FILE.gguf PORT [--as_ours]` is llama.cpp's own server, by the xllamacpp wheel.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

LOADING_SECONDS = 300
SLOTS, POSITIONS = 8, 2048


@dataclass
class Server:
    client: httpx.Client
    process: subprocess.Popen[bytes]

    def signal(self, number: int) -> None:
        """To the server and its children."""
        os.killpg(self.process.pid, number)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Stopped before and afterwards, so that servers that wait disturb nobody."""
        self.signal(signal.SIGCONT)
        yield
        self.signal(signal.SIGSTOP)


def ours(model: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "neuralchat.cli", "serve", model, "--port", "{port}", *flags]


@contextmanager
def served(command: Sequence[str]) -> Iterator[Server]:
    """A server that answers; {port} in the command stands for a free one."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        words = [word.replace("{port}", str(port)) for word in command]
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=address, timeout=600, trust_env=False, verify=False) as client:
                end = time.monotonic() + LOADING_SECONDS
                while not answers(client):
                    if process.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        sys.exit(f"{' '.join(words)}: {log.read().decode(errors='replace')[-3000:]}")
                    time.sleep(0.5)
                yield Server(client, process)
        finally:
            for number in (signal.SIGCONT, signal.SIGTERM):
                if process.poll() is None:
                    os.killpg(process.pid, number)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def answers(client: httpx.Client) -> bool:
    """Also the first answer, which takes longer than others."""
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2, "temperature": 0}
    try:
        return client.post("/v1/chat/completions", json=body).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def llama_cpp(file: Path, port: int, *, as_ours: bool) -> None:
    """`as_ours`: with the settings of our engine, so that both compute the same."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel = SLOTS * POSITIONS, SLOTS
    params.hostnames, params.port = ["127.0.0.1"], port
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    params.n_threads_http = SLOTS + 2
    params.verbosity, params.ui, params.warmup, params.fit_params, params.offline = -1, False, False, False, True
    if as_ours:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.ctx_shift, params.cache_ram_mib = False, 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--as_ours", action="store_true")
    options = parser.parse_args()
    llama_cpp(options.file, options.port, as_ours=options.as_ours)


if __name__ == "__main__":
    main()
