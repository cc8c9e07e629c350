"""C kernels, compiled for this machine at first use and kept; every one has a slower twin in torch.

No compiler, another system, a failing compilation: `library` gives None and callers take the twin. Compiled files
lie under `cache_directory()/kernels`, named by what went into them, so a new compiler or CPU compiles anew. One that is
not what was compiled here, or that another user could have put there, is never loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import nn

from neuralchat.cache import (
    WORK_PREFIX,
    UntrustedCacheError,
    broken_seal,
    cache_directory,
    seal,
    trusted_directory,
)
from neuralchat.console import note
from neuralchat.files import make_directory, move, open_directory, remove_tree
from neuralchat.models.compat.torch import openmp_entry
from neuralchat.working_directories import sweep_abandoned, working_directory_in

# No -ffast-math: infinities mean something in the kernels, and so does the order of sums.
FLAGS = ["-O3", "-march=native", "-fPIC", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
COMPILE_SECONDS = 120
KERNELS = Path(__file__).parent
LIBRARY = "kernel.so"

# Set on the modules of a model that is to do without kernels.
REFUSES_KERNELS = "neuralchat_refuses_kernels"
# Set on classes of modules whose kernels equal their twins to the bit.
TO_THE_BIT = "neuralchat_kernels_to_the_bit"


def refuse_kernels(model: nn.Module) -> None:
    """Every module of `model` computes in torch from here on; other models of the process are not affected."""
    for module in model.modules():
        setattr(module, REFUSES_KERNELS, True)


# Whether functions that do not know which module calls them (rotary positions) compute in torch.
functions_in_torch: ContextVar[bool] = ContextVar("functions_in_torch", default=False)


@contextmanager
def kernels_off(model: nn.Module) -> Iterator[None]:
    """Within, `model` computes in torch, so that what is found does not hang on whether there is gcc.

    Modules whose kernels give what their twins give, to the bit, keep them.
    """
    compiling = [module for module in model.modules() if takes_kernels(module) and not hasattr(module, TO_THE_BIT)]
    for module in compiling:
        setattr(module, REFUSES_KERNELS, True)
    outside = functions_in_torch.set(True)
    try:
        yield
    finally:
        functions_in_torch.reset(outside)
        for module in compiling:
            delattr(module, REFUSES_KERNELS)


def takes_kernels(module: nn.Module | None) -> bool:
    """False for the modules of a model that `refuse_kernels` was called with. None: for a function."""
    if module is None:
        return not functions_in_torch.get()
    return not getattr(module, REFUSES_KERNELS, False)


def library(name: str, **defines: int) -> ctypes.CDLL | None:
    """The compiled kernels/`name`.c with these preprocessor definitions, or None where it cannot be had."""
    return compiled(name, tuple(sorted(defines.items())))


def library_for(x: torch.Tensor, name: str, **defines: int) -> ctypes.CDLL | None:
    """The kernels for activations of the device and dtype of `x`, or None."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return None
    return library(name, BF16=int(x.dtype == torch.bfloat16), **defines)


@functools.cache
def compiled(name: str, defines: tuple[tuple[str, int], ...]) -> ctypes.CDLL | None:
    compiler = shutil.which("gcc")
    threads = openmp_of_torch()
    if sys.platform != "linux" or compiler is None or threads is None:
        return None
    source = KERNELS / f"{name}.c"
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
        flags = [*FLAGS, *(f"-D{key}={value}" for key, value in defines)]
        code = [file.read_text(encoding="utf-8") for file in (source, *sorted(KERNELS.glob("*.h")))]
        parts = [*code, *flags, version, cpu_features(), str(threads)]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
        target = trusted_directory(cache_directory() / "kernels") / f"{name}-{digest}"
        if (broken := broken_seal(target)) is not None:
            if os.path.lexists(target):
                note(f"the compiled kernel {target} is not used: {broken}; compiling it again")
            build(compiler, flags, source, threads, target)
        return loaded(target)
    except UntrustedCacheError as error:
        note(f"there are no compiled kernels, which makes training slower: {error}")
        return None
    except (OSError, subprocess.SubprocessError):
        return None


def loaded(target: Path) -> ctypes.CDLL:
    """What was looked at is what is loaded, also where others may put another directory in the place of this one.

    The descriptor stays open: by its number the loader tells libraries apart.
    """
    held = Path(f"/proc/self/fd/{open_directory(target)}")
    if not held.exists():
        # In a root without /proc.
        return ctypes.CDLL(str(target / LIBRARY))
    if (broken := broken_seal(held)) is not None:
        raise UntrustedCacheError(f"{target}: {broken}")
    return ctypes.CDLL(str(held / LIBRARY))


def build(compiler: str, flags: list[str], source: Path, threads: Path, target: Path) -> None:
    """Compile beside the target, seal and rename, so that two runs may do it at once."""
    sweep_abandoned(target.parent, WORK_PREFIX)
    with working_directory_in(target.parent, WORK_PREFIX) as work:
        part, whole = work / "kernel.o", work / "entry" / LIBRARY
        make_directory(whole.parent)
        # Linked against the OpenMP that torch runs with: a second one would fight it for the cores.
        for command in (
            [compiler, *flags, "-fopenmp", "-c", str(source), "-o", str(part)],
            [compiler, "-shared", str(part), str(threads), "-lm", "-o", str(whole)],
        ):
            environ = {**os.environ, "TMPDIR": str(work)}
            subprocess.run(command, capture_output=True, check=True, timeout=COMPILE_SECONDS, env=environ)
        seal(whole.parent)
        remove_tree(target)
        try:
            move(whole.parent, target)
        except OSError:
            # Another run was faster.
            if broken_seal(target) is not None:
                raise


class SymbolPlace(ctypes.Structure):
    """The structure Dl_info that dladdr(3) fills."""

    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


def openmp_of_torch() -> Path | None:
    """The OpenMP runtime that torch runs with, or None if gcc's code cannot use it. Other packages bring their own."""
    try:
        place = SymbolPlace()
        if ctypes.CDLL(None).dladdr(openmp_entry(), ctypes.byref(place)) and place.file:
            return Path(os.fsdecode(place.file))
    except (OSError, AttributeError):
        pass
    return None


def cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU "))}))
