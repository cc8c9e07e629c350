"""Kernels are compiled once, kept, and done without where that is not possible."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from neuralchat.cache import SEAL, broken_seal, seal
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
    (kept,) = (empty_home / "kernels").glob("*/kernel.so")
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


CONSTRUCTOR = """
#include <stdio.h>
__attribute__((constructor)) static void run(void) { FILE *f = fopen("%s", "w"); if (f) fclose(f); }
"""


def planted(kept: Path, work: Path) -> Path:
    """Put a library that leaves a mark when it is loaded in the place of a kernel; returns the mark."""
    mark = work / "mark"
    (work / "planted.c").write_text(CONSTRUCTOR % mark)
    kept.unlink()
    subprocess.run(["gcc", "-shared", "-fPIC", str(work / "planted.c"), "-o", str(kept)], check=True)
    subprocess.run([sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(kept)!r})"], check=True)
    assert mark.exists()
    mark.unlink()
    return mark


@pytest.mark.slow
@needs_gcc
@pytest.mark.parametrize(
    "damage", ["cut", "emptied", "gone", "no seal", "seal of another version", "planted", "planted with a seal"]
)
def test_a_damaged_kernel_is_compiled_again(
    empty_home: Path, damage: str, said: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert compiled.library("elementwise", BF16=0) is not None
    compiled.compiled.cache_clear()
    (kept,) = (empty_home / "kernels").glob("*/kernel.so")
    whole, mark = kept.read_bytes(), empty_home / "no mark"
    if damage in ("cut", "emptied"):
        # The file that was loaded stays as it is.
        kept.unlink()
        kept.write_bytes(whole[: len(whole) // 2 if damage == "cut" else 0])
    elif damage == "gone":
        kept.unlink()
    elif damage == "no seal":
        (kept.parent / SEAL).unlink()
    elif damage == "seal of another version":
        (kept.parent / SEAL).write_text('{"version": 99, "files": {}}')
    else:
        mark = planted(kept, tmp_path_factory.mktemp("planted"))
        if damage == "planted with a seal":
            (kept.parent / SEAL).unlink()
            seal(kept.parent)
            # Somebody else can do all that in a directory that is open to all.
            kept.chmod(0o666)
    assert compiled.library("elementwise", BF16=0) is not None
    assert not mark.exists()
    assert "is not used" in said[-1]
    assert "compiling it again" in said[-1]
    assert len(kept.read_bytes()) == len(whole)
    assert not kept.parent.stat().st_mode & 0o022


@needs_gcc
def test_a_group_that_may_write_what_the_user_makes_costs_no_kernels(empty_home: Path, said: list[str]) -> None:
    before = os.umask(0o002)
    try:
        assert compiled.library("elementwise", BF16=0) is not None
        compiled.compiled.cache_clear()
        assert compiled.library("elementwise", BF16=0) is not None
    finally:
        os.umask(before)
    assert said == []


@needs_gcc
def test_what_lies_in_a_directory_that_others_can_write_to_is_not_loaded(
    empty_home: Path, said: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert compiled.library("elementwise", BF16=0) is not None
    (kept,) = (empty_home / "kernels").glob("*/kernel.so")
    mark = planted(kept, tmp_path_factory.mktemp("planted"))
    (kept.parent / SEAL).unlink()
    seal(kept.parent)
    (empty_home / "kernels").chmod(0o777)
    compiled.compiled.cache_clear()
    assert compiled.library("elementwise", BF16=0) is None
    assert not mark.exists()
    assert "can be written by other users; chmod go-w" in said[-1]


@needs_gcc
@pytest.mark.parametrize("after", [1, 2])
def test_a_directory_that_is_swapped_when_it_was_looked_at_is_not_loaded(
    empty_home: Path, after: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can write to a directory above can give the name to another one at any moment."""
    assert compiled.library("elementwise", BF16=0) is not None
    (kept,) = (empty_home / "kernels").glob("*/kernel.so")
    work = tmp_path_factory.mktemp("swapped")
    shutil.copytree(kept.parent, work / "planted")
    mark = planted(work / "planted" / "kernel.so", work)
    looks = []

    def look_and_swap(place: Path) -> str | None:
        found = broken_seal(place)
        looks.append(found)
        if len(looks) == after:
            kept.parent.rename(work / "looked at")
            (work / "planted").rename(kept.parent)
        return found

    monkeypatch.setattr(compiled, "broken_seal", look_and_swap)
    compiled.compiled.cache_clear()
    found = compiled.library("elementwise", BF16=0)
    assert (work / "looked at").exists()
    assert looks[0] is None
    assert not mark.exists()
    assert (found is None) == (after == 1)


@pytest.mark.slow
@needs_gcc
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["directory", "entry", "file"])
def test_what_belongs_to_another_user_is_not_loaded(empty_home: Path, what: str, said: list[str]) -> None:
    assert compiled.library("elementwise", BF16=0) is not None
    compiled.compiled.cache_clear()
    (kept,) = (empty_home / "kernels").glob("*/kernel.so")
    os.chown({"directory": kept.parent.parent, "entry": kept.parent, "file": kept}[what], 4711, -1)
    found = compiled.library("elementwise", BF16=0)
    assert (found is None) == (what == "directory")
    assert ("there are no compiled kernels" if what == "directory" else "compiling it again") in said[-1]
    assert "belongs to another user (id 4711)" in said[-1]


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
