"""Which library carries the sums between processes: gloo, unless another is asked for and installed."""

from __future__ import annotations

import importlib
import importlib.util

import torch
import torch.distributed as dist

from neuralchat.config.training_flags import BACKENDS
from neuralchat.errors import DistributedError

CCL_PACKAGE = "oneccl_bindings_for_pytorch"


def choose_backend(asked: str | None, *, strict: bool, gpu: bool) -> tuple[str, str | None]:
    """(backend, what to tell the user). One that cannot be used is replaced by gloo, or with `strict` an error."""
    if asked is None:
        return ("nccl" if gpu and dist.is_nccl_available() else "gloo"), None
    if asked not in BACKENDS:
        raise DistributedError(f"--ddp_backend is '{asked}'; allowed are {', '.join(BACKENDS)}")
    lack = what_lacks(asked, gpu)
    if lack is None:
        return asked, None
    if strict:
        raise DistributedError(f"--ddp_backend {asked} cannot be used: {lack}; or leave out --strict_backend for gloo")
    return "gloo", f"--ddp_backend {asked} cannot be used, gloo takes its place: {lack}"


def what_lacks(backend: str, gpu: bool) -> str | None:
    """Why a backend cannot be used here and what to do, or None if it can."""
    if backend == "ccl":
        return what_ccl_lacks()
    if backend == "nccl" and not dist.is_nccl_available():
        return "this build of torch has no NCCL; install a build with CUDA"
    if backend == "nccl" and not gpu:
        return "NCCL needs a GPU, and this run uses none"
    if backend == "mpi" and not dist.is_mpi_available():
        return "this build of torch has no MPI, which only a build from source has; mpirun works with gloo too"
    if backend == "xccl" and not dist.is_xccl_available():
        return "this build of torch has no XCCL; install a build for Intel GPUs"
    return None


def what_ccl_lacks() -> str | None:
    """Importing the bindings is what makes torch know 'ccl'."""
    version = torch.__version__.split("+")[0]
    install = f"install the oneCCL bindings for torch {version}: pip install oneccl_bind_pt, from Intel's index"
    if importlib.util.find_spec(CCL_PACKAGE) is None:
        return f"the package {CCL_PACKAGE} is not installed; {install}"
    try:
        importlib.import_module(CCL_PACKAGE)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return f"{CCL_PACKAGE} does not load ({reason}); {install}"
    if "ccl" not in dist.Backend.backend_list:
        return f"{CCL_PACKAGE} is loaded but offers no 'ccl'; {install}"
    return None
