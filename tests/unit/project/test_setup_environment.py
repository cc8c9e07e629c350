"""What scripts/setup_environment.py decides, and what it says where it cannot go on. Nothing is installed."""

from __future__ import annotations

import http.server
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "setup_environment.py"
sys.path.insert(0, str(SCRIPT.parent))

import setup_environment
from setup_environment import Environment, SetupError, answers, check_space, install_torch, main, wanted_build


class Space(NamedTuple):
    free: int


def answer(stdout: str = "", stderr: str = "", returncode: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], returncode, stdout, stderr)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder before all others on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + os.environ["PATH"])
    monkeypatch.delenv("TORCH_BUILD", raising=False)
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def put(program: Path, code: str) -> None:
    program.write_text(f"#!/bin/sh\n{code}\n")
    program.chmod(0o755)


class Machine:
    """Answers instead of pip and Python: what was installed, and what torch that leaves."""

    def __init__(self, report: list[str] | None = None, leaves: str = "2.13.0 cpu", fails: str = "") -> None:
        self.report, self.leaves, self.fails = report or ["torch"], leaves, fails
        self.installed: list[str] = []

    def __call__(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        if "--report" in command:
            return answer(json.dumps({"install": [{"metadata": {"name": name}} for name in self.report]}))
        if "install" in command:
            self.installed.append(" ".join(command[command.index("install") + 1 :]))
            return answer(stderr=self.fails, returncode=int(bool(self.fails) and self.fails in command))
        return answer(self.leaves, returncode=int(not self.leaves))


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    monkeypatch.chdir(SCRIPT.parents[1])

    def use(machine: Machine, cpu_index: bool = False) -> Machine:
        monkeypatch.setattr(setup_environment, "run", machine)
        monkeypatch.setattr(setup_environment, "answers", lambda _: cpu_index)
        return machine

    return use


def test_a_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or later is needed, and .* is 3\.10\..*apt install.*PYTHON="):
        runpy.run_path(str(SCRIPT))


def test_a_python_without_venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_environment.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SetupError, match=rf"apt install python3\.{sys.version_info[1]}-venv"):
        Environment(tmp_path / "venv").create()


def test_an_environment_left_half_made_does_not_work(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "with space")
    assert not environment.works()
    (tmp_path / "with space" / "bin").mkdir(parents=True)
    Path(environment.python).symlink_to(tmp_path / "gone")
    assert not environment.works()
    Path(environment.python).unlink()
    put(Path(environment.python), "exit 1")
    assert not environment.works()


@pytest.mark.parametrize(
    ("code", "build"), [("echo 'GPU 0: some card'", "default"), ("echo no devices; exit 9", "cpu"), (None, "cpu")]
)
def test_the_machine_decides_the_build(programs: Path, code: str | None, build: str) -> None:
    if code:
        put(programs / "nvidia-smi", code)
    elif shutil.which("nvidia-smi"):
        pytest.skip("this machine has an NVIDIA GPU")
    assert wanted_build() == build


def test_the_user_decides_the_build(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_BUILD", "default")
    assert wanted_build() == "default"
    put(programs / "nvidia-smi", "echo 'GPU 0: some card'")
    monkeypatch.setenv("TORCH_BUILD", "cpu")
    assert wanted_build() == "cpu"
    monkeypatch.setenv("TORCH_BUILD", "rocm")
    with pytest.raises(SetupError, match="TORCH_BUILD=rocm; allowed are auto, cpu, default"):
        wanted_build()


def test_the_cpu_index_is_asked_first(on: Callable[..., Machine], capsys: pytest.CaptureFixture[str]) -> None:
    machine = on(Machine(), cpu_index=True)
    install_torch(Environment(Path("venv")), None, "cpu")
    assert [setup_environment.CPU_INDEX in words for words in machine.installed] == [True]
    assert "torch 2.13.0, CPU build (from PyTorch's CPU index)" in capsys.readouterr().out


@pytest.mark.parametrize("cpu_index", [False, True])
def test_pip_decides_where_the_cpu_index_fails(
    cpu_index: bool, on: Callable[..., Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    machine = on(Machine(fails=setup_environment.CPU_INDEX), cpu_index)
    install_torch(Environment(Path("venv")), None, "cpu")
    assert machine.installed[-1].split()[-1].startswith("torch==")
    assert setup_environment.CPU_INDEX not in machine.installed[-1]
    assert "CPU build (from where pip looks)" in capsys.readouterr().out


def test_cuda_is_not_installed_without_a_gpu(on: Callable[..., Machine]) -> None:
    machine = on(Machine(report=["torch", "nvidia-cublas", "triton"]))
    with pytest.raises(SetupError, match=r"2 packages such as nvidia-cublas(.|\n)*TORCH_BUILD=default make setup"):
        install_torch(Environment(Path("venv")), None, "cpu")
    assert machine.installed == []


def test_cuda_that_could_not_be_seen_beforehand_is_told(
    on: Callable[..., Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    on(Machine(leaves="2.13.0 13.0"))
    install_torch(Environment(Path("venv")), None, "cpu")
    assert "CUDA 13.0 build (from where pip looks)" in (said := capsys.readouterr().out)
    assert "make clean-setup setup" in said


def test_a_gpu_gets_the_ordinary_build_with_its_packages(
    on: Callable[..., Machine], capsys: pytest.CaptureFixture[str]
) -> None:
    machine = on(Machine(leaves="2.13.0 13.0"), cpu_index=True)
    install_torch(Environment(Path("venv")), None, "default")
    assert "--no-deps" not in machine.installed[-1]
    assert not any(setup_environment.CPU_INDEX in words for words in machine.installed)
    assert "CUDA 13.0 build" in capsys.readouterr().out


def test_the_locked_torch_stays(on: Callable[..., Machine], capsys: pytest.CaptureFixture[str]) -> None:
    machine = on(Machine())
    pin = Path("locked/torch.txt").read_text().split("==")[-1].strip()
    install_torch(Environment(Path("venv")), f"{pin}+cpu", "cpu")
    assert machine.installed == []
    assert "was there" in capsys.readouterr().out
    install_torch(Environment(Path("venv")), "2.0.1+cpu", "cpu")
    assert machine.installed


def test_a_torch_that_cannot_be_imported(on: Callable[..., Machine]) -> None:
    on(Machine(leaves=""))
    with pytest.raises(SetupError, match="cannot be imported"):
        install_torch(Environment(Path("venv")), None, "cpu")


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("OSError: [Errno 28] No space left on device", "TMPDIR="),
        ("ERROR: No matching distribution found for absl-py==2.5.1", "Is there a network"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "PIP_CERT="),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "pip cache purge"),
    ],
)
def test_what_pip_says_comes_with_a_remedy(said: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_environment, "run", lambda _: answer(stderr=said, returncode=1))
    with pytest.raises(SetupError) as error:
        Environment(Path("venv")).install("some")
    assert said in str(error.value)
    assert remedy in str(error.value)


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_space(tmp_path, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Space(2 * 1024**3))
    with pytest.raises(SetupError, match=r"has 2\.0 GiB free, 3 are needed"):
        check_space(tmp_path, 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Space((place == tmp_path) * 9 * 1024**3))
    with pytest.raises(SetupError, match=r"has 0\.0 GiB free, 1 are needed.*TMPDIR"):
        check_space(tmp_path, 3)


def test_an_error_ends_with_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: Environment) -> bool:
        raise SetupError("no way")

    monkeypatch.chdir(SCRIPT.parents[1])
    monkeypatch.setattr(Environment, "works", broken)
    assert main([]) == 1
    assert capsys.readouterr().err == "setup: no way\n"


class Index(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


@pytest.fixture
def server() -> Iterator[str]:
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()


def test_a_server_that_answers(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    assert answers(server)


def test_a_server_that_is_silent_or_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(setup_environment, "CPU_INDEX_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        assert not answers(url)
        assert time.monotonic() - start < 5
    assert not answers(url)
