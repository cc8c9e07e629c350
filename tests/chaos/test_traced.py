"""What a run does to the system it runs on: where it writes, what it connects to, what it starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from support.checkpoints import save_run
from support.forks import run_forked
from support.live_server import until
from support.runs import ROWS
from support.strangers.trace import Audit, has_strace, traced

FLAGS = ["--max_steps", "2", "--save_steps", "1", "--sample_tokens", "4", "--report_samples", "1"]
ADDRESS = re.compile(r"at (http://127\.0\.0\.1:\d+)/v1")
# Of the compiler; gcc starts its own parts, by names that depend on its version.
COMPILER = {"gcc", "cc1", "as", "ld", "collect2", "lto-wrapper", "x86_64-linux-gnu-gcc-12"}


@pytest.fixture
def place(tmp_path: Path, llama_checkpoint: Path) -> Path:
    for name in ("output", "cache", "temporary", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "records.json").write_text(json.dumps(ROWS))
    (tmp_path / "model").symlink_to(llama_checkpoint)
    return tmp_path


def train(place: Path) -> list[str]:
    words = ["finetune", "--model_name_or_path", "model", "--train_file", "records.json", "--output_dir", "output/run"]
    return [*words, *FLAGS, "--hub_token", "s3cr3t-0f-m1ne", "--report_to", "tensorboard"]


VERBS: dict[str, Callable[[Path], list[str]]] = {
    "finetune": train,
    "chat": lambda place: ["chat", "output/run", "-p", "a", "--max_new_tokens", "2"],
    "merge": lambda place: ["merge", "output/run", "--output", "output/merged"],
    "resume": lambda place: [*train(place), "--resume_from_checkpoint", "auto"],
}


def surroundings(place: Path) -> dict[str, str]:
    """Everything where a library might write is told apart; no cache of this machine is used, and nothing is offline by
    a variable alone.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_", "TORCH"))}
    return {
        **kept,
        "HOME": str(place / "home"),
        "NEURALCHAT_HOME": str(place / "cache"),
        "TMPDIR": str(place / "temporary"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def allowed(place: Path) -> list[str | Path]:
    # /dev/shm: semaphores of OpenMP and of worker processes.
    return [place / "output", place / "cache", place / "temporary", "/dev/null", "/dev/shm", "/dev/tty", "/proc/self"]


@pytest.mark.skipif(not has_strace(), reason="strace is not installed, or may not trace here")
def test_system_calls(place: Path) -> None:
    for verb, words in VERBS.items():
        status, said, trace = traced(words(place), place, surroundings(place))
        assert status == 0, said
        assert trace.outside(*allowed(place)) == [], verb
        assert trace.connected == set(), verb
        programs = {os.path.basename(path) for path in trace.started} - {os.path.basename(sys.executable)}
        assert programs - COMPILER == set(), verb
        # It did see what there is to see.
        written = {path for path in trace.changed if path.startswith(str(place / "output"))}
        assert bool(written) == (verb != "chat"), verb
    assert os.listdir(place / "home") == []
    # torch makes an empty directory there.
    assert [name for name in os.listdir(place / "temporary") if not name.startswith("torchinductor_")] == []


def asked_and_ended(process: subprocess.Popen[bytes], said: Path) -> None:
    """An answer over HTTP, the page, and an end by SIGTERM."""
    until(lambda: ADDRESS.search(said.read_text()) or process.poll() is not None, 200)
    found = ADDRESS.search(said.read_text())
    assert found, said.read_text()
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
    with httpx.Client(base_url=found[1], timeout=60, trust_env=False, verify=False) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert client.get("/").status_code == 200
    (server,) = psutil.Process(process.pid).children()
    server.terminate()


@pytest.mark.skipif(not has_strace(), reason="strace is not installed, or may not trace here")
def test_system_calls_of_a_server(place: Path) -> None:
    save_run(place / "output/run", place / "model", "lora")
    words = ["serve", "output/run", "--port", "0"]
    status, said, trace = traced(words, place, surroundings(place), meanwhile=asked_and_ended)
    assert status == 0, said
    assert trace.outside(*allowed(place)) == []
    assert trace.connected == set()


def audited(place: Path, report: Path) -> Callable[[], None]:
    """Write to `report` what the process did when it ends."""

    def prepare() -> None:
        os.environ.update(surroundings(place))
        tempfile.tempdir = None
        audit, true_exit, process = Audit(), os._exit, os.getpid()

        def leave(status: int) -> None:
            if os.getpid() != process:
                true_exit(status)
            audit.watching = False
            found = audit.trace
            names = [
                found.outside(*allowed(place)),
                sorted(found.connected),
                sorted(found.started),
                sorted(found.changed),
            ]
            report.write_text(json.dumps(names))
            true_exit(status)

        os._exit = leave

    return prepare


def test_what_python_asks_for(place: Path, kernels_directory: Path) -> None:
    """The same where strace is not there; in one process, whose children are not seen. Kernels may be there already."""
    (place / "cache" / "kernels").symlink_to(kernels_directory)
    report = place / "report.json"
    for verb, words in VERBS.items():
        log = place / "output" / f"log of {verb}"
        assert run_forked(words(place), place, log, audited(place, report)) == 0, log.read_text()
        outside, connected, started, changed = json.loads(report.read_text())
        assert (outside, connected) == ([], []), verb
        assert {os.path.basename(path) for path in started} <= {"gcc"}, verb
        # It did see something: the records are tokenized in the cache.
        assert changed or verb != "finetune"
