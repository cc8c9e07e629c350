"""Kernels are compiled once, kept, and done without where that is not possible."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from neuralchat.models.kernels import compiled
from neuralchat.models.kernels.elementwise import kernels_for

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEURALCHAT_HOME", str(tmp_path))
    compiled.compiled.cache_clear()
    return tmp_path


@needs_gcc
def test_compiled_once_and_found_again(empty_home: Path) -> None:
    assert compiled.library("elementwise", BF16=0) is not None
    (kept,) = (empty_home / "kernels").iterdir()
    written = kept.stat().st_mtime_ns
    compiled.compiled.cache_clear()
    assert compiled.library("elementwise", BF16=0) is not None
    assert kept.stat().st_mtime_ns == written


@pytest.mark.parametrize("trouble", ["no compiler", "it fails", "nowhere to write", "torch without OpenMP"])
def test_none_where_it_cannot_be_had(trouble: str, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if trouble == "no compiler":
        monkeypatch.setenv("PATH", "")
    elif trouble == "it fails":
        monkeypatch.setattr(compiled, "FLAGS", ["--no-such-option"])
    elif trouble == "nowhere to write":
        (empty_home / "kernels").write_text("a file")
    else:
        monkeypatch.setattr(compiled, "openmp_of_torch", lambda: None)
    assert compiled.library("elementwise", BF16=0) is None
    assert kernels_for(torch.zeros(1)) is None
    compiled.compiled.cache_clear()


def test_other_dtypes_take_the_twins() -> None:
    assert kernels_for(torch.zeros(1, dtype=torch.float64)) is None


@needs_gcc
def test_a_model_that_refuses_kernels_leaves_them_to_others() -> None:
    one, other = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    compiled.refuse_kernels(one)
    assert kernels_for(torch.zeros(1), one) is None
    assert kernels_for(torch.zeros(1), one[0]) is None
    assert kernels_for(torch.zeros(1), other[0]) is not None


@needs_gcc
def test_the_openmp_is_that_of_torch() -> None:
    """Other packages load runtimes of their own; a second one would fight torch for the cores."""
    found = compiled.openmp_of_torch()
    assert found is not None
    assert Path(torch.__file__).parent.parent in found.parents
