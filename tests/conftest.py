"""Shared fixtures. Tests never reach for a hub."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# What is imported and collected stays: until the first test nobody looks for garbage among it, nor afterwards.
gc.disable()
os.environ["HF_HUB_OFFLINE"] = "1"
# Who starts the tests in the background has switched Ctrl-C off, for them and for all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where the user's own cache is, whose demo model some tests are about.
USERS_HOME = os.environ.get("NEURALCHAT_HOME")

from support.machine.temporary import files_in_memory

files_in_memory()

import pytest
import torch
from hypothesis import Phase, settings
from support.forks import run_captured, run_fresh
from support.notes import Notes, kept_notes
from support.small_models import make_tokenizer, save_checkpoint

from neuralchat.console.messages import HANDLER, log
from neuralchat.models.kernels import compiled

pytest_plugins = ["support.recorder"]
ROOT = Path(__file__).parent.parent
UNIT = ROOT / "tests" / "unit"
# Of the log before any test.
LEVEL = log.level
torch.set_num_threads(1)
# To explain a failure, hypothesis traces each line of every example, which takes longer than the examples and has
# hung for ever in CPython 3.11.7. How long an example takes depends on what else the machine does.
settings.register_profile("here", deadline=None, phases=[phase for phase in Phase if phase is not Phase.explain])
settings.load_profile("here")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quick: also run by `make quick`; every test in tests/unit is, if not slow")
    config.addinivalue_line("markers", "slow: takes seconds, or starts interpreters")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(UNIT) and not item.get_closest_marker("slow"):
            item.add_marker("quick")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def llama_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "llama")


@pytest.fixture(scope="session")
def kernels_directory(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kept from run to run: what is compiled is named by all that decides it, and takes longer than most tests.

    Where pytest keeps nothing or may not, the workers of this run share one.
    """
    try:
        directory = pytestconfig.cache.mkdir("kernels")
    except (AttributeError, OSError):
        own = tmp_path_factory.getbasetemp()
        directory = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "kernels"
        directory.mkdir(exist_ok=True)
    directory.chmod(0o700)
    return directory


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory, kernels_directory: Path) -> Iterator[None]:
    """What is made for several tests does not use the user's cache either; an ordinary user may not even have one."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        (home / "kernels").symlink_to(kernels_directory)
        patch.setenv("NEURALCHAT_HOME", str(home))
        yield


@pytest.fixture(autouse=True)
def own_cache(
    tmp_path_factory: pytest.TempPathFactory, kernels_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads what an earlier run cached, but kernels are compiled once."""
    home = tmp_path_factory.mktemp("home")
    (home / "kernels").symlink_to(kernels_directory)
    monkeypatch.setenv("NEURALCHAT_HOME", str(home))


@pytest.fixture
def users_cache(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if USERS_HOME is None:
        monkeypatch.delenv("NEURALCHAT_HOME")
    else:
        monkeypatch.setenv("NEURALCHAT_HOME", USERS_HOME)


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command that a test or its module's fixture runs in this process shows the log; each test finds it quiet.

    What a module's fixture keeps of the log (`kept_notes`) it goes on keeping.
    """
    log.handlers[:] = [handler for handler in log.handlers if handler is not HANDLER]
    if not any(isinstance(handler, Notes) for handler in log.handlers):
        log.setLevel(LEVEL)
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.fixture(autouse=True)
def ctrl_c_as_before() -> Iterator[None]:
    """Nothing that a test runs in this process may change what Ctrl-C does afterwards."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def use_kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Choose the "compiled" kernels or their twins in "torch" for the rest of the test."""

    def use(kind: str) -> None:
        if kind == "torch":
            monkeypatch.setattr(compiled, "library", lambda _name, **_defines: None)
        elif compiled.library("elementwise", BF16=0) is None:
            pytest.skip("no gcc, or not Linux: there are no compiled kernels")

    return use


@pytest.fixture(params=["compiled", "torch"])
def kernels(request: pytest.FixtureRequest, use_kernels: Callable[[str], None]) -> str:
    """Each test that asks for it runs with the compiled kernels and with their twins in torch."""
    use_kernels(request.param)
    return request.param


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Every message that the library logs during the test."""
    with kept_notes() as texts:
        yield texts


@pytest.fixture
def write_records(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as a JSON array; returns the path."""

    def write(rows: list[dict[str, Any]], name: str = "records.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `neuralchat` (or a script of the repository) as a user would; output is captured.

    A fork of a process that has imported everything; `fresh` starts an interpreter, which takes seconds.
    """

    def run(
        *words: object, script: str | None = None, check: bool = False, stdin: str | None = None, fresh: bool = False
    ) -> subprocess.CompletedProcess[str]:
        runner = run_fresh if fresh else run_captured
        result = runner(list(map(str, words)), tmp_path, script=ROOT / script if script else None, stdin=stdin)
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    return run
