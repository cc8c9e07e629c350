"""backends.py: what is asked for, or gloo and why; with --strict_backend an error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from neuralchat.config.command.parser import parse
from neuralchat.distributed.backends import BACKENDS, CCL_PACKAGE, choose_backend
from neuralchat.errors import DistributedError


def test_nothing_asked_for() -> None:
    assert choose_backend(None, strict=True, gpu=False) == ("gloo", None)
    assert choose_backend("gloo", strict=True, gpu=False) == ("gloo", None)


def test_a_gpu_takes_nccl_where_torch_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    assert choose_backend(None, strict=False, gpu=True) == ("nccl", None)
    assert choose_backend("nccl", strict=True, gpu=True) == ("nccl", None)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    assert choose_backend(None, strict=False, gpu=True) == ("gloo", None)


LACKS = [
    ("nccl", "this build of torch has no NCCL"),
    ("mpi", "this build of torch has no MPI"),
    ("xccl", "this build of torch has no XCCL"),
    ("ccl", f"the package {CCL_PACKAGE} is not installed; install the oneCCL bindings for torch"),
]


@pytest.mark.parametrize(("backend", "reason"), LACKS)
def test_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch, backend: str, reason: str) -> None:
    for name in ("nccl", "mpi", "xccl"):
        monkeypatch.setattr(dist, f"is_{name}_available", lambda: False)
    name, notice = choose_backend(backend, strict=False, gpu=False)
    assert name == "gloo"
    assert notice is not None
    assert notice.startswith(f"--ddp_backend {backend} cannot be used, gloo takes its place: {reason}")
    assert "\n" not in notice
    with pytest.raises(DistributedError, match=f"--ddp_backend {backend} cannot be used: {reason}"):
        choose_backend(backend, strict=True, gpu=False)


def test_nccl_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    with pytest.raises(DistributedError, match="NCCL needs a GPU, and this run uses none"):
        choose_backend("nccl", strict=True, gpu=False)


@pytest.mark.parametrize("backend", ["mpi", "xccl"])
def test_one_that_is_there(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(dist, f"is_{backend}_available", lambda: True)
    assert choose_backend(backend, strict=True, gpu=False) == (backend, None)


def test_an_unknown_one() -> None:
    with pytest.raises(DistributedError, match="--ddp_backend is 'smoke'; allowed are gloo, nccl, mpi, ccl, xccl"):
        choose_backend("smoke", strict=False, gpu=False)


@pytest.fixture
def bindings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name; the test writes what it does."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(dist.Backend, "backend_list", list(dist.Backend.backend_list))
    yield tmp_path / f"{CCL_PACKAGE}.py"
    sys.modules.pop(CCL_PACKAGE, None)


def test_importing_the_bindings_registers_ccl(bindings: Path) -> None:
    bindings.write_text("import torch.distributed as dist\ndist.Backend.backend_list.append('ccl')\n")
    assert choose_backend("ccl", strict=True, gpu=False) == ("ccl", None)


def test_bindings_that_do_not_load(bindings: Path) -> None:
    bindings.write_text("raise ImportError('libccl.so.1: cannot open\\nmore')\n")
    name, notice = choose_backend("ccl", strict=False, gpu=False)
    assert name == "gloo"
    assert f"{CCL_PACKAGE} does not load (libccl.so.1: cannot open)" in (notice or "")


def test_bindings_that_register_nothing(bindings: Path) -> None:
    bindings.write_text("")
    with pytest.raises(DistributedError, match="is loaded but offers no 'ccl'"):
        choose_backend("ccl", strict=True, gpu=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_parser_takes_each(backend: str) -> None:
    words = ["--model_name_or_path", "m", "--train_file", "f", "--output_dir", "o", "--ddp_backend", backend]
    found = parse(words, prog="t", implied=("--do_train",))
    assert found.training.ddp_backend == backend
