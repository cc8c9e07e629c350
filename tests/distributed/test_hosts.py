"""Two hosts on one machine: network namespaces with addresses and host names of their own, torchrun across them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runs import digest, stable_metrics

from neuralchat.checkpointing.store import damage

ROWS = [{"instruction": f"Say the word number {i}.", "output": f"Word {i} it is." * (1 + i % 4)} for i in range(18)]
ADDRESSES = ("10.231.77.1", "10.231.77.2")
PEER_TIMEOUT = 8


class Hosts:
    """Two namespaces joined by one cable."""

    def __init__(self, directory: Path, model: Path) -> None:
        self.directory = directory
        self.model = model
        self.names = [f"nc{os.getpid()}{letter}" for letter in "ab"]
        (directory / "records.json").write_text(json.dumps(ROWS))

    def build(self) -> None:
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        a, b = self.names
        ip("link", "add", f"{a}0", "netns", a, "type", "veth", "peer", "name", f"{b}0", "netns", b)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", f"{name}0")
        self.cable("up")

    def cable(self, state: str) -> None:
        for name in self.names:
            ip("-n", name, "link", "set", f"{name}0", state)

    def destroy(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def start(self, output: str, *extra: str) -> list[subprocess.Popen[bytes]]:
        """torchrun on both hosts, each under a host name that no name service knows."""
        return [self.start_node(node, output, *extra) for node in range(2)]

    def start_node(self, node: int, output: str, *extra: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(node),
            "--nproc_per_node", "1", "--master_addr", ADDRESSES[0], "--master_port", "29533",
            "-m", "neuralchat.cli", "finetune",
            "--model_name_or_path", str(self.model), "--train_file", "records.json", "--output_dir", output,
            "--num_train_epochs", "12", "--per_device_train_batch_size", "2", "--learning_rate", "0.01",
            "--logging_steps", "1", "--save_steps", "5", "--save_total_limit", "3", "--report_samples", "0",
            "--lora_dropout", "0.1", "--peer_timeout", str(PEER_TIMEOUT), *extra,
        ]  # fmt: skip
        named = ["unshare", "--uts", "sh", "-c", f'hostname node{node}; exec "$@"', "sh", *command]
        with (self.directory / f"{output}-{node}.log").open("ab") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.names[node], *named], cwd=self.directory, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def log(self, output: str, node: int) -> str:
        return (self.directory / f"{output}-{node}.log").read_text()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def finish(processes: list[subprocess.Popen[bytes]], seconds: float = 180) -> list[int]:
    return [process.wait(timeout=seconds) for process in processes]


def kill(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def hosts(tmp_path: Path, llama_checkpoint: Path) -> Iterator[Hosts]:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("namespaces need root, iproute2 and util-linux")
    found = Hosts(tmp_path, llama_checkpoint)
    try:
        found.build()
    except subprocess.CalledProcessError as error:
        found.destroy()
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield found
    found.destroy()


def wait_for(condition: str, log: Path, seconds: float) -> float:
    """Seconds until `condition` is in the log."""
    start = time.monotonic()
    while not re.search(condition, log.read_text()):
        assert time.monotonic() - start < seconds, log.read_text()
        time.sleep(0.02)
    return time.monotonic() - start


def test_two_hosts_then_one_cut_off_then_again(hosts: Hosts) -> None:
    processes = hosts.start("whole")
    assert finish(processes) == [0, 0], hosts.log("whole", 0) + hosts.log("whole", 1)
    assert "preflight: 2 ranks on node0 (1), node1 (1) agree" in hosts.log("whole", 0)

    processes = hosts.start("cut")
    try:
        wait_for(r"step 7/", hosts.directory / "cut-0.log", 120)
        hosts.cable("down")
        for node, other in ((0, 1), (1, 0)):
            lost = rf"rank {other} on node{other} (is lost|has given no sign of life)|contact is lost: .*node{other}"
            seconds = wait_for(lost, hosts.directory / f"cut-{node}.log", PEER_TIMEOUT + 25)
            assert seconds < PEER_TIMEOUT + 20
    finally:
        kill(processes)
    assert damage(hosts.directory / "cut" / "checkpoint-5") is None

    hosts.cable("up")
    processes = hosts.start("cut", "--resume_from_checkpoint", "auto")
    assert finish(processes) == [0, 0], hosts.log("cut", 0) + hosts.log("cut", 1)
    assert "note: going on from cut/checkpoint-" in hosts.log("cut", 0)
    assert digest(hosts.directory / "cut") == digest(hosts.directory / "whole")
    assert stable_metrics(hosts.directory / "cut") == stable_metrics(hosts.directory / "whole")


def test_a_host_that_is_not_started_is_named(hosts: Hosts) -> None:
    """mpirun's way, without an agent on each host that would wait by itself."""
    environ = {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": ADDRESSES[0],
        "MASTER_PORT": "29534",
    }  # fmt: skip
    words = [
        "ip", "netns", "exec", hosts.names[0], sys.executable, "-m", "neuralchat.cli", "finetune",
        "--model_name_or_path", str(hosts.model), "--train_file", "records.json", "--output_dir", "run",
        "--preflight_timeout", "3",
    ]  # fmt: skip
    found = subprocess.run(
        words, cwd=hosts.directory, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert found.returncode == 4
    assert "error: 1 of 2 ranks did not come within 3 s (--preflight_timeout): rank 1." in found.stderr
