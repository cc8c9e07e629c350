"""Where tests write: in memory where there is enough of it, since a run syncs and deletes some hundred files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")
# What the whole suite leaves behind until it ends is about 1 GiB.
FREE_BYTES, AVAILABLE_BYTES = 4 << 30, 10 << 30


def files_in_memory() -> None:
    """Let TMPDIR be a directory in memory, unless somebody has set it; processes that are started inherit it."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    if shutil.disk_usage(MEMORY).free < FREE_BYTES or psutil.virtual_memory().available < AVAILABLE_BYTES:
        return
    directory = MEMORY / f"tests-of-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid == os.getuid() and not directory.is_symlink():
        os.environ["TMPDIR"] = str(directory)
        tempfile.tempdir = None
