"""What is locked fits what is asked for, and the set-up says what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import setup_environment as setup

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED = {
    name.lower(): version
    for file in ("requirements", "torch", "installer")
    for name, version in re.findall(r"^([\w.-]+)==([^\s\\]+)", (ROOT / f"locked/{file}.txt").read_text(), re.MULTILINE)
}
ASKED = [
    Requirement(text)
    for texts in (
        PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values(),
        PROJECT["dependency-groups"]["dev"],
    )
    for text in texts
]  # fmt: skip


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_what_is_asked_for_is_locked_within_its_range(asked: Requirement) -> None:
    assert asked.specifier.contains(LOCKED[asked.name.lower()], prereleases=True)


@pytest.mark.parametrize("file", ["requirements", "installer", "peers"])
def test_every_locked_package_has_a_hash_and_none_is_for_gpus(file: str) -> None:
    blocks = re.split(r"^(?=\w)", (ROOT / f"locked/{file}.txt").read_text(), flags=re.MULTILINE)[1:]
    assert blocks
    for block in blocks:
        assert "--hash=sha256:" in block, block
        assert not block.startswith(setup.CUDA_PACKAGES), block


def test_the_package_does_not_pin() -> None:
    """It has to install beside others."""
    assert [text for text in PROJECT["project"]["dependencies"] if "==" in text] == []


def test_an_unknown_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_BUILD", "rocm")
    with pytest.raises(setup.SetupError, match="TORCH_BUILD=rocm; allowed are auto, cpu, default"):
        setup.wanted_build()


@pytest.mark.parametrize(("listed", "build"), [("GPU 0: NVIDIA H100", "default"), ("", "cpu")])
def test_the_build_follows_the_machine(monkeypatch: pytest.MonkeyPatch, listed: str, build: str) -> None:
    monkeypatch.delenv("TORCH_BUILD", raising=False)
    monkeypatch.setattr(setup, "run", lambda command: subprocess.CompletedProcess(command, 0, listed, ""))
    assert setup.wanted_build() == build


def test_a_cuda_build_is_not_taken_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[tuple[str, ...]] = []
    environment = SimpleNamespace(python="python", install=lambda *words: installed.append(words))
    report = '{"install": [{"metadata": {"name": "torch"}}, {"metadata": {"name": "nvidia-cublas"}}]}'
    monkeypatch.setattr(setup, "answers", lambda _url: False)
    monkeypatch.setattr(setup, "run", lambda command: subprocess.CompletedProcess(command, 0, report, ""))
    with pytest.raises(setup.SetupError, match=r"pip would take torch==1 with CUDA \(1 packages such as nvidia-cublas"):
        setup.install_cpu_build(environment, "torch==1")
    assert installed == []


def test_the_cpu_index_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[tuple[str, ...]] = []
    environment = SimpleNamespace(python="python", install=lambda *words: installed.append(words))
    monkeypatch.setattr(setup, "answers", lambda _url: True)
    assert setup.install_cpu_build(environment, "torch==1") == "from PyTorch's CPU index"
    assert installed == [("--no-deps", "--index-url", setup.CPU_INDEX, "torch==1")]


def test_no_room_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 29))
    with pytest.raises(setup.SetupError, match=r"has 0\.5 GiB free, 3 are needed\. Make room"):
        setup.check_space(tmp_path, 3)


def test_pip_is_quoted_with_what_helps() -> None:
    done = subprocess.CompletedProcess([], 1, "", "ERROR: [Errno 28] No space left on device")
    assert "TMPDIR=/path names another one" in setup.explained(done)
