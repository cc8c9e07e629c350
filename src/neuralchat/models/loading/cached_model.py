"""A model in another form, kept in the cache: written once for each key, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from neuralchat.cache import WORK_PREFIX, broken_seal, cache_directory, keep_within_limit, seal, trusted_directory
from neuralchat.console import inform
from neuralchat.console.units import duration, gib
from neuralchat.errors import ModelError, system_error_in, system_error_line
from neuralchat.files import move, remove_tree
from neuralchat.working_directories import sweep_abandoned, working_directory_in

# Roughly, of reading one form and writing another, with two cores: 500 MiB take 20 seconds.
BYTES_PER_S = 25 << 20
# Less is there before one has read how long it takes.
TOLD_FROM_BYTES = 100 << 20


def cached_model(
    key: str,
    make: Callable[[Path], None],
    *,
    told: str,
    kept: str = "kept",
    size: Callable[[], int] = lambda: 0,
) -> Path:
    """The directory that `make` wrote for `key`, now or earlier. It is `told` before it writes, with how it is `kept`.

    `size`: of what will be written, in bytes; 0 where that is not known. Raises ModelError where the cache cannot be
    used or has too little space, and what `make` raises.
    """
    kind = cache_directory() / "gguf"
    entry = kind / key
    try:
        trusted_directory(kind)
        if entry.is_dir() and broken_seal(entry) is None:
            return entry
        sweep_abandoned(kind, WORK_PREFIX)
        needed = size()
        check_space(kind, needed)
        work_told = f", {gib(needed)}, about {duration(needed / BYTES_PER_S)}" if needed >= TOLD_FROM_BYTES else ""
        inform(f"{told} (once{work_told}; it is {kept} in {kind})")
        with working_directory_in(kind, WORK_PREFIX) as work:
            make(work / "entry")
            seal(work / "entry")
            # Another process may have made it meanwhile.
            if broken_seal(entry) is not None:
                remove_tree(entry)
                move(work / "entry", entry)
    except Exception as error:
        if (refused := system_error_in(error)) is None:
            raise
        raise ModelError(
            f"{kind} cannot be used: {system_error_line(refused)}; NEURALCHAT_HOME names another place"
        ) from error
    keep_within_limit(keep=entry)
    return entry


def check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise ModelError(
            f"{gib(needed)} are needed in {directory}, {gib(free)} are free; make room, or name another place with "
            "NEURALCHAT_HOME"
        )
