"""A model in another form, kept in the cache: written once for each key, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neuralchat.cache import WORK_PREFIX, broken_seal, cache_directory, keep_within_limit, seal, trusted_directory
from neuralchat.console import inform
from neuralchat.errors import ModelError, system_error_in, system_error_line
from neuralchat.files import move, remove_tree
from neuralchat.working_directories import sweep_abandoned, working_directory_in


def cached_model(key: str, make: Callable[[Path], None], *, told: str, kept: str = "kept") -> Path:
    """The directory that `make` wrote for `key`, now or earlier. It is `told` before it writes, with how it is `kept`.

    Raises ModelError where the cache cannot be used, and what `make` raises.
    """
    kind = cache_directory() / "gguf"
    entry = kind / key
    try:
        trusted_directory(kind)
        if entry.is_dir() and broken_seal(entry) is None:
            return entry
        inform(f"{told} (once; it is {kept} in {kind})")
        sweep_abandoned(kind, WORK_PREFIX)
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
